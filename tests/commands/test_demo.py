"""The demo: zero-shot and fine-tuned, the weights of the package beat counting on a generated city."""

import json

import pytest

from stmoe_hf.__main__ import main


@pytest.mark.slow
def test_the_demo_beats_the_frequency_of_weekday_and_slot(tmp_path, capsys):
    assert main(["demo", "--output_dir", str(tmp_path)]) == 0
    assert "edition humob2024" in capsys.readouterr().out
    for part in ("zero-shot", "cityB"):
        results = json.loads((tmp_path / part / "all_results.json").read_text())
        assert results["test_humob2024_dtw"] < results["weekday_slot_mode_humob2024_dtw"]
        assert results["test_humob2024_geobleu"] > results["weekday_slot_mode_humob2024_geobleu"]
