"""configs/accelerate: what accelerate itself makes of each file; the network sharded by FSDP is the same network."""

from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import patch_environment, prepare_multi_gpu_env
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from stmoe_hf import MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.model.modeling_stmoe_bert import STMoEBertLayer
from stmoe_hf.training.build import new_model
from stmoe_hf.training.command_line import parse_arguments

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
KINDS = {"one_gpu": "NO", "multi_gpu": "MULTI_GPU", "fsdp": "FSDP", "two_cpu": "MULTI_GPU"}
CONFIG = STMoEBertConfig(
    grid_width=20,
    grid_height=10,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    num_experts=4,
    dropout=0.0,
    history_spread=2,
    record_features=True,
    cities=["A", "B"],
)


def launched(name: str, *more: str):
    """The arguments of `accelerate launch --config_file FILE train_hf.py`, as accelerate completes them."""
    args = launch_command_parser().parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), *more, "train_hf.py"])
    return _validate_launch_command(args)[0]


def test_every_file_is_known_here():
    assert {path.stem for path in FOLDER.iterdir()} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == KINDS[name] and config.mixed_precision == "no"
    args = launched(name)
    assert args.num_processes == (1 if name == "one_gpu" else 2) and args.num_machines == 1
    assert args.multi_gpu == (KINDS[name] == "MULTI_GPU") and args.use_fsdp == (name == "fsdp")


def test_several_machines_are_a_matter_of_the_command_line():
    more = "--num_machines 2 --machine_rank 1 --num_processes 16 --main_process_ip 10.0.0.1".split()
    for name in ("multi_gpu", "fsdp"):
        environment = prepare_multi_gpu_env(args := launched(name, *more))
        assert (args.nnodes, int(args.node_rank)) == ("2", 1) and args.rdzv_endpoint.startswith("10.0.0.1"), name
        assert args.nproc_per_node == "8" and environment["ACCELERATE_MIXED_PRECISION"] == "no"


def test_fsdp_wraps_each_layer_of_the_network():
    with patch_environment(**prepare_multi_gpu_env(launched("fsdp"))):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    model = STMoEBertForMobility(CONFIG)
    plugin.set_auto_wrap_policy(model)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert [module for module in model.modules() if wraps(module)] == list(model.model.encoder.layer)
    assert all(isinstance(layer, STMoEBertLayer) for layer in model.model.encoder.layer)


@pytest.mark.parametrize(
    "options",
    [
        ["--config", "configs/base.yaml", "--city_embedding", "true"],
        ["--config", "configs/history.yaml"],
        ["--config", "configs/demo.yaml"],
        ["--config", "configs/paper.yaml"],
        ["--model_name", "MobilityBERT"],
        ["--model_name", "MobilityBERTMoE"],
    ],
    ids=lambda options: options[1].split("/")[-1],
)
def test_every_parameter_takes_part_in_every_step_so_that_ddp_need_not_look_for_unused_ones(options, monkeypatch):
    monkeypatch.chdir(FOLDER.parents[1])
    small = "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 16".split()
    model_args, _, args = parse_arguments(["--city", "B", "--use_cpu", *options, *small])
    assert args.ddp_find_unused_parameters is False
    model = new_model(model_args, grid_width=20, grid_height=10)
    if model_args.city_embedding:
        model.add_cities(["A", "B"])
    batch = MobilityProcessor(grid_width=20, grid_height=10)([[(0, 3, 5, 5), (1, 3, 6, 5), (2, 3, 999, 999)]] * 2)
    model(**batch, labels=torch.where(batch["inputs"][..., -1] == CONFIG.mask_id, 84, -100)).loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_the_sharded_network_has_the_loss_and_the_gradients_of_the_whole(tmp_path):
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(STMoEBertForMobility(CONFIG))
    whole, sharded = models
    batch = MobilityProcessor(grid_width=20, grid_height=10)([[(0, 3, 5, 5), (1, 3, 6, 5), (2, 3, 999, 999)]] * 2)
    labels = torch.where(batch["inputs"][..., -1] == CONFIG.mask_id, 84, -100)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in sharded.model.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        losses = []
        for model in models:
            losses.append(model(**batch, labels=labels, city=torch.tensor([0, -1])).loss)
            losses[-1].backward()
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
        for (name, ours), theirs in zip(whole.named_parameters(), sharded.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad.full_tensor(), atol=1e-6), name
    finally:
        distributed.destroy_process_group()
