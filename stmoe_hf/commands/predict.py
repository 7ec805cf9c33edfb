"""`stmoe predict --model runs/cityB --data_dir DIR --city B --output submission.csv.gz`"""

import argparse
from pathlib import Path

from ..data.files import open_aside, refuse_unwritable
from ..model.decoders import DECODERS
from .options import OWN_WEIGHTS, add_city_options, add_device, add_model, add_poi, city_of
from .scaled import add_scale_arguments, is_scaled, of_every_job, run_scaled, where_and_when


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, OWN_WEIGHTS, required=False)
    add_city_options(parser)
    add_poi(parser)
    parser.add_argument("--output", required=True, help="file to write, .csv or .csv.gz; of --input folder or URL")
    parser.add_argument("--plain", action="store_true", help="predict the unmasked users, from the cut day on, too")
    parser.add_argument("--cut_day", type=int, help="first day to predict of unmasked users; unset: the edition's")
    parser.add_argument("--horizon_days", type=int, default=15, help="days to predict of unmasked users")
    parser.add_argument("--decoder", choices=DECODERS, help="how cells are chosen; unset: as in the run")
    parser.add_argument(
        "--distance_weight", type=float, help="cost of a km in the balanced decoder; unset: as in the run"
    )
    parser.add_argument("--input_seq_length", type=int, help="records of history; unset: as in the run, else all")
    parser.add_argument(
        "--predict_seq_length", type=int, help="records predicted at a time, fed back; unset: as in the run, else all"
    )
    add_device(parser)
    add_scale_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if is_scaled(args, "city", "data_dir", "data_path", "poi"):
        return _run_shards(args)
    from ..prediction.predict_city import prepare_prediction  # heavy, and no part of the help

    output = Path(args.output)
    refuse_unwritable(output, (".csv", ".csv.gz"))
    prediction = prepare_prediction(
        args.model,
        **city_of(args),
        poi=args.poi,
        plain=args.plain,
        cut_day=args.cut_day,
        horizon_days=args.horizon_days,
        decoder=args.decoder,
        distance_weight=args.distance_weight,
        input_seq_length=args.input_seq_length,
        predict_seq_length=args.predict_seq_length,
        batch_size=args.batch_size,
        device=args.device,
        progress=True,
    )
    count = 0
    with open_aside(output) as file:
        file.write("uid,d,t,x,y\n")
        for records in prediction.batches():
            records.to_csv(file, index=False, header=False)
            count += len(records)
    print(f"{count} records of {prediction.num_users} users are in {output}", end="")
    print(f"; {prediction.num_left_out} users have no record to predict" if prediction.num_left_out else "")
    return 0


def _run_shards(args: argparse.Namespace) -> int:
    from ..data.splits import refuse_cut_day
    from ..prediction.load import find_model
    from ..prediction.predict_city import prediction_settings
    from ..scale.batches import PredictJob

    where = where_and_when(args)
    settings = prediction_settings(
        find_model(args.model),
        decoder=args.decoder,
        distance_weight=args.distance_weight,
        input_seq_length=args.input_seq_length,
        predict_seq_length=args.predict_seq_length,
    )
    cut_day = (where.cut_day if args.cut_day is None else args.cut_day) if args.plain else None
    if cut_day is not None:
        refuse_cut_day(cut_day, where.calendar)
    how = of_every_job(args, where)
    return run_scaled(args, PredictJob(**how, prediction=settings, cut_day=cut_day, horizon_days=args.horizon_days))
