"""The command line as people use and misuse it."""

import json
import shlex
import subprocess
import sys

import pandas as pd
import pytest

import amodal
from amodal import cli, methods
from amodal.cli import options, shared
from amodal.cli.options import listed
from amodal.core.recipe import NAMES

HELP = """
import sys
from amodal.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
import amodal
print([name for name in ("torch", "numpy", "sklearn", "pandas") if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["pretrain", "--help"], ["methods"], ["pretrian"]]
)
def test_help_lists_and_typos_answer_without_importing_torch(arguments):
    code = HELP.format(arguments=arguments)
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"


def test_a_command_can_be_pasted():
    words = shared.command("evaluate", "runs/a b", "--data", "it's")
    assert shlex.split(words) == ["amodal", "evaluate", "runs/a b", "--data", "it's"]


def test_the_next_command_is_quoted(tmp_path, capsys):
    (tmp_path / "my data").mkdir()
    rows = [f"{i / 7},a thing of sort {i}" for i in range(30)]
    (tmp_path / "my data" / "t.csv").write_text("\n".join(["x,words", *rows]), encoding="utf-8")
    data, out = str(tmp_path / "my data"), str(tmp_path / "a run")
    options = ["--size", "nano", "--steps", "1", "--batch-size", "8"]
    cli.main(["pretrain", "simclr", "--data", data, "--out", out, *options])
    said = capsys.readouterr().out.partition("Next: ")[2]
    assert shlex.split(said)[:5] == ["amodal", "evaluate", out, "--data", data]


def test_the_next_command_measures_what_there_is(tmp_path, capsys):
    rows = [f"a thing of sort {i} and others" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["words", *rows]), encoding="utf-8")
    data, out = str(tmp_path / "t.csv"), str(tmp_path / "run")
    options = ["--size", "nano", "--steps", "1", "--batch-size", "8"]
    cli.main(["pretrain", "simcse", "--data", data, "--out", out, *options])
    verb, *words = shlex.split(capsys.readouterr().out.partition("Next: amodal ")[2])
    assert verb == "diagnose", "on one field without a label nothing is evaluated"
    cli.main([verb, *words])
    assert "anisotropy" in capsys.readouterr().out
    assert "`amodal diagnose` measures" in refused(capsys, "evaluate", out, "--data", data)


def test_a_query_without_a_field_is_refused_with_what_to_write(capsys):
    error = refused(capsys, "search", "runs/a b", "a dog", "on a beach", "--k", "3")
    assert "amodal search 'runs/a b' --query FIELD='a dog on a beach'" in error


def test_a_packaged_encoder_without_its_library(capsys, folder, tmp_path):
    words = ["pretrain", "simclr", "--data", str(folder), "--out", str(tmp_path / "run")]
    error = refused(capsys, *words, "--backbone", "image=efficientnet_lite0")
    assert "write package:efficientnet_lite0" in error


@pytest.mark.parametrize("arguments", [["methods"], ["align", "--help"]])
def test_who_reads_no_further_gets_no_error(arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "amodal", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()  # before anything is written, as `| true` does
        assert process.stderr.read() == b""
        assert process.wait() in (1, 141)  # rich, which prints tables, ends with 1


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    assert stop.value.code == 2
    said = capsys.readouterr()
    return said.err + said.out


def test_features_of_backbones_are_cached_by_an_option(capsys, folder, tmp_path):
    words = ["pretrain", "clip", "--data", folder, "--out", tmp_path / "run", "--cache-features"]
    assert "Did you mean tokens" in refused(capsys, *words, "token")
    assert "no frozen backbone whose features could be cached" in refused(capsys, *words, "mean")


def test_a_field_whose_name_has_a_comma_is_named_in_quotes(capsys, tmp_path):
    assert listed('"size, in m", colour,"say ""a"""') == ["size, in m", "colour", 'say "a"']
    words = [f"a text of {i} words about {i * 7 % 5} things" for i in range(20)]
    file = tmp_path / "texts.csv"
    pd.DataFrame({"text, short": words, "text, long": words[::-1]}).to_csv(file, index=False)
    tried = ["pretrain", "simcse", "--data", file, "--out", tmp_path / "run", "--steps", 1]
    tried += ["--size", "nano", "--fields"]
    error = " ".join(refused(capsys, *tried, "text, short").split())
    assert 'There are: "text, long", "text, short"' in error
    assert "double quotes around names" in refused(capsys, *tried, '"text, short')
    cli.main([*map(str, tried), '"text, short"'])
    assert [*amodal.load(tmp_path / "run").fields] == ["text, short"]


def test_typos_offer_the_nearest_name(capsys, folder, tmp_path):
    run = tmp_path / "run"
    data = ["--data", folder, "--out", run]
    assert "Did you mean pretrain" in refused(capsys, "pretrian")
    assert "--size" in refused(capsys, "pretrain", "clip", *data, "--sise", "tiny")
    assert "Did you mean simclr" in refused(capsys, "pretrain", "simcl", *data)
    assert "Did you mean temperature" in refused(
        capsys, "pretrain", "clip", *data, "--method.temprature", "0.1"
    )
    assert "must be a float" in refused(
        capsys, "pretrain", "clip", *data, "--method.temperature", "warm"
    )
    assert "Did you mean image" in refused(
        capsys, "pretrain", "clip", *data, "--sources", "imgae,text"
    )
    assert "Did you mean tiny" in refused(capsys, "pretrain", "clip", *data, "--size", "tinny")
    assert "Did you mean decur" in refused(capsys, "methods", "decurr")
    assert not run.exists()


def test_missing_and_empty_data_say_what_to_do(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "init", tmp_path / "empty")
    assert "emty" in refused(capsys, "init", tmp_path / "emty")
    assert "not a run" in refused(capsys, "evaluate", tmp_path / "empty", "--data", "globe")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "run", "--data", "digits", "--out", ""], "an empty name behind --out"),
        (["init", ""], "an empty name behind init"),
        (["export", "run", "--to", "onnx", "--out="], "an empty name behind --out="),
    ],
)
def test_an_empty_name_is_not_this_folder(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(words)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pairs_of_a_repeated_option_are_all_taken():
    words = [
        "pretrain",
        "clip",
        "--backbone",
        "a=timm:x@f",
        "--steps",
        "3",
        "--backbone",
        "b=mlp:w=2",
    ]
    joined = ["pretrain", "clip", "--backbone", "a=timm:x@f", "b=mlp:w=2", "--steps", "3"]
    assert options.joined(words) == joined
    same = ["link", "R", "--weight=a=1", "--weight", "b=2", "c=3", "--label", "x"]
    assert options.joined(same) == [
        "link",
        "R",
        "--weight",
        "a=1",
        "b=2",
        "c=3",
        "--label",
        "x",
    ]
    plain = ["--templates", "a {}", "--templates", "b {}", "--out=x", "-h"]
    assert options.joined(plain) == plain
    lists = options.list_options(cli.VERBS["predict"])
    assert "--templates" in lists and "--classes" not in lists
    assert options.joined(plain, lists) == ["--templates", "a {}", "b {}", "--out=x", "-h"]
    equals = ["--templates=a {}", "--templates=b {}", "--top", "1", "--top", "2"]
    assert options.joined(equals, lists) == ["--templates", "a {}", "b {}", *equals[2:]]
    assert {"--tokens", "--backbone"} <= options.list_options(cli.VERBS["plan"])


def test_method_options_take_both_forms():
    rest, options = cli.take_method_options(["pretrain", "--method.a-b", "1", "x", "--method.c=2"])
    assert rest == ["pretrain", "x"] and options == {"a_b": "1", "c": "2"}


def test_unreadable_values_are_set_aside_and_the_run_goes_on(capsys, folder, tmp_path):
    import shutil

    data = tmp_path / "photos"
    shutil.copytree(folder, data)
    (data / "red" / "000.png").write_bytes(b"not a picture")
    (data / "green" / "001.txt").write_text("", encoding="utf-8")
    run = tmp_path / "run"
    cli.main(
        [
            "pretrain",
            "clip",
            "--data",
            str(data),
            "--out",
            str(run),
            "--size",
            "nano",
            "--epochs",
            "2",
            "--batch",
            "80",
        ]
    )
    entries = [
        json.loads(line)
        for line in (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {(e["key"], e["field"]) for e in entries} <= {
        ("red/000", "image"),
        ("green/001", "text"),
    } and entries
    assert all(e["reason"] for e in entries)
    assert (run / "model.safetensors").exists()


def test_a_field_that_no_record_has_does_not_stop_a_run(tmp_path):
    import amodal

    data = {"words": ["a", "b c", "d"] * 20, "marks": [[1.0, 2.0]] * 60, "never": [None] * 60}
    from amodal import data as records
    from amodal import modalities

    dataset = records.open(
        data, fields={"words": modalities.make("text"), "never": modalities.make("text")}
    )
    model = amodal.pretrain("clip", dataset, tmp_path / "run", size="nano", steps=3, progress=False)
    assert set(model.fields) == {"words", "never", "marks"}


def test_every_field_of_a_recipe_is_an_option(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"--{name.replace('_', '-')}" in printed, name
    for old in (
        "--batch ",
        "--micro ",
        "--recompute",
        "--shard",
        "--average",
        "--sources",
        "--checkpoint-every",
    ):
        assert old not in printed, "an alias is hidden"


def test_an_old_option_name_is_replaced_with_a_warning():
    with pytest.warns(DeprecationWarning, match="--how is called --tuning now"):
        words = cli.current_names(["adapt", "--how=head", "--batch", "8"])
    assert words == ["adapt", "--tuning=head", "--batch-size", "8"]


def test_options_reach_the_run_also_by_their_old_names(folder, tmp_path):
    words = [
        "pretrain",
        "clip",
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--size=nano",
        "--steps",
        "2",
    ]
    words += [
        "--batch=16",
        "--micro",
        "8",
        "--average",
        "0.5",
        "--sources",
        "image,text",
        "--checkpoint-every",
        "1",
    ]
    words += [
        "--recompute",
        "--betas",
        "0.8",
        "0.9",
        "--views",
        "image=weak",
        "--clip",
        "0",
        "--logger",
        "none",
    ]
    cli.main([*words, "--callback", "retrieval"])
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    recipe = config["recipe"]
    assert (
        recipe["ema"] == 0.5
        and recipe["betas"] == [0.8, 0.9]
        and recipe["views"] == {"image": ["weak"]}
    )
    assert config["batch"] == 16 and recipe["clip"] == 0 and "micro_batch_size" not in recipe
    assert (tmp_path / "run" / "checkpoints" / "step-00000001").exists()
    assert any(
        "retrieval/" in line
        for line in (tmp_path / "run" / "metrics.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[-1:]
    )


def test_a_config_runs_a_run_a_second_time(capsys, folder, tmp_path):
    first = [
        "pretrain",
        "clip",
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "first"),
        "--size",
        "nano",
    ]
    cli.main(
        [*first, "--steps", "2", "--batch-size", "16", "--method.temperature", "0.2", "--seed", "3"]
    )
    file = tmp_path / "first" / "config.toml"
    cli.main(["pretrain", "--config", str(file), "--out", str(tmp_path / "second")])
    cli.main(
        ["pretrain", "--config", str(file), "--out", str(tmp_path / "longer"), "--epochs", "1"]
    )
    configs = [
        json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        for name in ("first", "second", "longer")
    ]
    assert configs[0]["weights_sha256"] == configs[1]["weights_sha256"]
    assert configs[2]["schedule"]["steps"] == 3 and configs[2]["options"]["temperature"] == 0.2
    own = tmp_path / "own.toml"
    own.write_text(
        f'method = "clip"\ndata = "{folder}"\nsize = "nano"\nsteps = 1\n[recipe]\nbatch = 16\n',
        encoding="utf-8",
    )
    cli.main(["pretrain", "--config", str(own), "--out", str(tmp_path / "own")])
    assert "needs --out DIR" in refused(capsys, "pretrain", "--config", own)
    assert "needs METHOD" in refused(capsys, "pretrain", "--data", folder, "--out", tmp_path / "x")
    for text, words in (
        ("steps = [", "is no TOML"),
        ("stepz = 3", "Did you mean steps"),
        ("[recipe]\nlr = 'high'", "lr must be a number; it is 'high'"),
        ("recipe = 3", "recipe must be a table"),
    ):
        own.write_text(f'data = "{folder}"\nout = "{tmp_path / "x"}"\n{text}\n', encoding="utf-8")
        assert words in refused(capsys, "pretrain", "clip", "--config", own)
    assert "cannot be read" in refused(capsys, "pretrain", "--config", tmp_path / "gone.toml")


def test_every_verb_of_the_readme_exists():
    assert set(cli.VERBS) == {
        *(
            "demo",
            "init",
            "data",
            "curate",
            "montage",
            "compare",
            "pretrain",
            "align",
            "adapt",
            "predict",
            "evaluate",
            "embed",
            "cluster",
            "link",
            "map",
            "diagnose",
            "estimate",
            "papers",
            "index",
        ),
        *("search", "serve", "view", "export", "methods", "claim", "doctor", "plan"),
    }
    assert {"simclr", "clip", "siglip", "decur", "mae", "data2vec", "dino", "zorro"} <= set(
        methods.names()
    )


@pytest.fixture
def photos(folder, tmp_path):
    """Pictures that a test may spoil, and a run on them."""
    import shutil

    import amodal

    shutil.copytree(folder, tmp_path / "photos")
    amodal.pretrain(
        "clip",
        tmp_path / "photos",
        tmp_path / "run",
        size="nano",
        steps=2,
        batch=16,
        progress=False,
    )
    return tmp_path / "photos", tmp_path / "run"


def said(capsys, *arguments) -> str:
    cli.main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return printed.err + printed.out


def test_index_counts_what_is_bad_and_what_is_gone(capsys, photos):
    data, run = photos
    (data / "red" / "000.png").write_bytes(b"not a picture")
    first = said(capsys, "index", run, "--data", data)
    assert (
        "index 80/80" in first
        and "1 value could not be read" in first
        and "red/000 (image)" in first
    )
    assert "Next: amodal search" in first and "no longer" not in first
    for stem in ("004", "008"):
        for file in (data / "red").glob(f"{stem}.*"):
            file.unlink()
    assert "2 records in the index are no longer in the data (--prune" in said(
        capsys, "index", run, "--data", data
    )
    sheet = run / "sheet.png"
    found = said(
        capsys, "search", run, "--text", "red", "--k", "80", "--sheet", sheet, "--data", data
    )
    assert "2 of 79 hits are not drawn" in found and sheet.exists()
    last = said(capsys, "index", run, "--data", data, "--prune")
    assert "2 records removed" in last and "78 records in the index" in last
    assert "no longer" not in said(capsys, "index", run, "--data", data, "--prune")


def test_embed_counts_what_is_bad_and_spares_other_files(capsys, photos):
    data, run = photos
    (data / "red" / "000.png").write_bytes(b"not a picture")
    out = run / "out.parquet"
    assert "1 value could not be read" in said(capsys, "embed", run, "--data", data, "--out", out)
    assert "wrote" in said(capsys, "embed", run, "--data", data, "--out", out), (
        "its own file it overwrites"
    )
    mine = run / "mine.parquet"
    mine.write_text("a,b\n1,2\n", encoding="utf-8")
    assert "holds no vectors" in refused(capsys, "embed", run, "--data", data, "--out", mine)
    assert mine.read_text(encoding="utf-8") == "a,b\n1,2\n"


def test_broken_runs_and_places_that_cannot_be_written_are_no_tracebacks(
    capsys, photos, monkeypatch
):
    data, run = photos
    command = [
        "pretrain",
        "clip",
        "--data",
        data,
        "--size",
        "nano",
        "--steps",
        "2",
        "--batch",
        "16",
        "--seed",
        "0",
    ]
    config = run / "config.json"
    whole = json.loads(config.read_text(encoding="utf-8"))
    assert whole["format"] == 2
    config.write_text(json.dumps(whole | {"format": 7}), encoding="utf-8")
    assert "has format 7; this version of amodal reads formats 1 and 2" in refused(
        capsys, "evaluate", run, "--data", data
    )
    config.write_text(json.dumps(whole), encoding="utf-8")
    spec = run / "spec.json"
    described = spec.read_text(encoding="utf-8")
    spec.write_text(
        json.dumps({k: v for k, v in json.loads(described).items() if k != "encoder"}),
        encoding="utf-8",
    )
    assert "lacks 'encoder'" in refused(capsys, "evaluate", run, "--data", data)
    spec.write_text(described, encoding="utf-8")
    config.write_text(
        json.dumps({k: v for k, v in whole.items() if k != "schedule"}), encoding="utf-8"
    )
    assert "lacks 'schedule'" in refused(capsys, *command, "--out", run, "--resume")
    for broken in ('{"method": ', "[]"):
        config.write_text(broken, encoding="utf-8")
        assert "config.json" in refused(capsys, "evaluate", run, "--data", data)
        assert "train anew" in refused(capsys, *command, "--out", run, "--resume")
    file = run / "README.md"
    assert "is a file" in refused(capsys, *command, "--out", file)
    assert "cannot be written" in refused(capsys, *command, "--out", file / "deeper")

    def full(*_, **__):
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr("amodal.doctor.report", full)
    assert "error: " in (printed := refused(capsys, "doctor")) and "Permission denied" in printed


def test_simple_features_are_shown_unless_they_are_left_out(capsys, photos):
    data, run = photos
    call = ("evaluate", run, "--data", data, "--protocols", "knn", "--no-untrained")
    assert " simple " in said(capsys, *call)
    assert "simple" not in said(capsys, *call, "--no-simple")


def test_runs_of_two_seeds_a_subset_and_a_page_go_together(capsys, photos, tmp_path):
    data, run = photos
    page = tmp_path / "r.html"
    call = ("evaluate", run, run, "--data", data, "--protocols", "knn,retrieval", "--few", 2)
    printed = said(capsys, *call, "--records", 30, "--html", page)
    subset = "a subset, drawn with seed 0, of "
    assert subset in printed and "mean of 2 runs" in printed and " simple " in printed
    assert subset in page.read_text(encoding="utf-8") and "trained - untrained" in page.read_text(
        encoding="utf-8"
    )
