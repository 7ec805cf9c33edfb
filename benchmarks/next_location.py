"""The next place a person goes to: two public test sets, and the next record of the people of B and D.

    python benchmarks/next_location.py --data_dir NEXT --city_dir HUMOB --people_dir CITY_A --make_weights

NEXT holds the splits of GeoLife and Foursquare (New York) of the repository xlwang233/LLM-Mob: `geolife_train.csv.gz`,
`geolife_train_valid.csv.gz`, `geolife_testset.jsonl.gz` and `foursquare_{train,valid,test}.csv.gz`. GeoLife's test
cases give the visits of the last 7 days; those of Foursquare are the visits of the test split with at least 3 of the
person in the 7 days before and at least 7 days after the person's first of the split. Each is asked with the minute
and weekday of the visit, as the published systems are, after all earlier visits of the person. HUMOB holds B and D
with all 75 days: of each person 100 records of the 15 days from --cut_day on, evenly, are asked one by one after all
earlier ones (a split of its own). CITY_A makes the weights that come with the package (`--make_weights`), of city A
alone. `zero-shot` are these weights; `trained` are others, of the training split (GeoLife, Foursquare) or of the days
before of the same people (B, D), three seeds each.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import stmoe_hf
from stmoe_hf.evaluation.next_place import counting_baselines, ranks, scores
from stmoe_hf.prediction.next_place import (
    MOST_QUESTIONS,
    WEIGHTS,
    Crowd,
    NextPlace,
    Question,
    Visits,
    asked,
    fit,
    some,
    training_questions,
    visits_of_city,
)

SEEDS = (1, 2, 3)
MOST_OF_A_PERSON = 100  # of the questions of a city's people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder with the two public sets")
    parser.add_argument("--city_dir", help="folder with the files of B and D")
    parser.add_argument("--cut_day", type=int, default=45, help="first of the 15 days that are asked (default 45)")
    parser.add_argument("--people_dir", help="folder with the file of city A, for --make_weights")
    parser.add_argument("--make_weights", action="store_true", help="train the weights that come with the package")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.make_weights:
        city = stmoe_hf.open_city("A", args.people_dir, edition="humob2024")
        people = visits_of_city(city, city.calendar.last_day + 1)
        fit(some(training_questions(people, [len(one) for one in people]), MOST_QUESTIONS, 0), Crowd(people), 1).save(
            WEIGHTS
        )
        print(f"the weights are in {WEIGHTS}")
    if args.data_dir:
        show("GeoLife", *geolife(Path(args.data_dir)))
        show("FSQ-NYC", *foursquare(Path(args.data_dir)))
    for name in ("B", "D") if args.city_dir else ():
        cut = args.cut_day
        show(f"City {name}, days {cut}-{cut + 14}", *of_city(stmoe_hf.open_city(name, args.city_dir), cut))


def show(title: str, train: list[Question], test: list[Question], before: Crowd, crowd: Crowd) -> None:
    """The table of a set; `before` is the crowd of the training questions, `crowd` that of the test."""
    networks = {f"trained, seed {seed}": fit(some(train, MOST_QUESTIONS, seed), before, seed) for seed in SEEDS}
    if WEIGHTS.is_file():
        networks = {"zero-shot (city A)": NextPlace.load()} | networks
    systems = counting_baselines() | {name: scorer(network) for name, network in networks.items()}
    found = {name: scores(values) for name, values in ranks(test, crowd, systems).items()}
    print(f"\n{title}: {len(test):,} questions, trained on {min(len(train), MOST_QUESTIONS):,} of {len(train):,}\n")
    print("| | Acc@1 | Acc@5 | Acc@10 | MRR |\n| --- | --- | --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in values.values())} |", flush=True)
    trained = np.array([list(found[f"trained, seed {seed}"].values()) for seed in SEEDS])
    mean, spread = trained.mean(0), trained.std(0)
    print(f"| trained, mean | {' | '.join(f'{m:.4f} ± {s:.4f}' for m, s in zip(mean, spread, strict=True))} |")


def scorer(network: NextPlace):
    return lambda features: network(torch.from_numpy(features)).detach().numpy()


def visits_of(table: pd.DataFrame) -> Visits:
    return Visits(*(table[name].to_numpy(np.int64) for name in ("location_id", "start_min", "weekday")))


def geolife(folder: Path) -> tuple[list[Question], list[Question], Crowd, Crowd]:
    train = pd.read_csv(folder / "geolife_train.csv.gz")
    known = pd.read_csv(folder / "geolife_train_valid.csv.gz")
    number = {user: place for place, user in enumerate(known["user_id"].unique())}
    people = [visits_of(known[known["user_id"] == user]) for user in number]
    counts = train.groupby("user_id").size()
    until = [int(counts.get(user, 0)) for user in number]
    before = Crowd([visits.before(count) for visits, count in zip(people, until, strict=True)])
    test = []
    with gzip.open(folder / "geolife_testset.jsonl.gz", "rt") as file:
        for line in file:
            case = json.loads(line)
            person = number[case["user_X"][0]]
            test.append(of_case(case, people[person], person))
    return training_questions(people, until), test, before, Crowd(people)


def of_case(case: dict, known: Visits, person: int) -> Question:
    """The visits of the last week may begin with some that the training split knows: these are counted once."""
    week = list(zip(case["X"], case["start_min_X"], case["weekday_X"], strict=True))
    old = set(
        zip(*(values[-len(week) :].tolist() for values in (known.place, known.minute, known.weekday)), strict=True)
    )
    new = np.array([visit for visit in week if visit not in old], np.int64).reshape(-1, 3)
    columns = (known.place, known.minute, known.weekday)
    past = Visits(*(np.concatenate([values, more]) for values, more in zip(columns, new.T, strict=True)))
    return Question(past, case["start_min_Y"], case["weekday_Y"], person, case["Y"])


def foursquare(folder: Path) -> tuple[list[Question], list[Question], Crowd, Crowd]:
    parts = [
        pd.read_csv(folder / f"foursquare_{name}.csv.gz").assign(part=name) for name in ("train", "valid", "test")
    ]
    table = pd.concat(parts).sort_values(["user_id", "start_day", "start_min"], kind="stable")
    people, until, known, test = [], [], [], []
    for person, (_, own) in enumerate(table.groupby("user_id", sort=True)):
        visits, day, part = visits_of(own), own["start_day"].to_numpy(), own["part"].to_numpy()
        people.append(visits)
        until.append(int((part == "train").sum()))
        known.append(int((part != "test").sum()))
        late = np.flatnonzero(part == "test")
        for number in late:
            week = late[(late < number) & (day[late] >= day[number] - 7)]
            if len(week) >= 3 and day[number] - day[late[0]] >= 7:
                test.append(asked(person, visits, int(number)))
    crowds = (
        Crowd([visits.before(count) for visits, count in zip(people, counts, strict=True)])
        for counts in (until, known)
    )
    return training_questions(people, until), test, *crowds


def of_city(city, cut_day: int) -> tuple[list[Question], list[Question], Crowd, Crowd]:
    """The records of a city's people from a day on, at most MOST_OF_A_PERSON of each, evenly."""
    people = visits_of_city(city, cut_day + 15)
    until = [int(count) for count in city.records_before(np.arange(len(city)), cut_day)]
    test = [
        asked(person, visits, int(number))
        for person, visits in enumerate(people)
        for number in np.unique(np.linspace(until[person], len(visits) - 1, MOST_OF_A_PERSON).astype(int))
        if 0 < until[person] <= number
    ]
    crowd = Crowd([visits.before(count) for visits, count in zip(people, until, strict=True)])
    return training_questions(people, until), test, crowd, crowd


if __name__ == "__main__":
    main()
