"""limoe by commands: how many experts there are."""

import pytest

import amodal
from amodal.cli import main
from amodal.nn.experts import Experts


def experts_of(run):
    return {m.experts for m in amodal.load(run).encoder.modules() if isinstance(m, Experts)}


def test_the_number_of_experts_is_an_option_and_part_of_the_run(folder, tmp_path, capsys):
    common = ["--data", str(folder), "--size", "nano", "--steps", "1", "--batch-size", "8"]
    main(["pretrain", "limoe", *common, "--experts", "3", "--out", str(tmp_path / "three")])
    main(["pretrain", "limoe", *common, "--out", str(tmp_path / "paper")])
    main(["pretrain", "clip", *common, "--experts", "2", "--out", str(tmp_path / "clip")])
    assert experts_of(tmp_path / "three") == {3} and experts_of(tmp_path / "paper") == {8}
    assert experts_of(tmp_path / "clip") == {2}
    assert "experts = 3" in (tmp_path / "three" / "config.toml").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["pretrain", "limoe", *common, "--experts", "1", "--out", str(tmp_path / "one")])
    assert "experts are 0, or at least 2" in capsys.readouterr().err
