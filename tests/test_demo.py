"""The first command of the README, cut short."""

from amodal.cli import main


def test_the_demo_draws_measures_and_goes_on(tmp_path, capsys):
    run = tmp_path / "demo"
    main(["demo", "--out", str(run), "--minutes", "0.05"])
    said = capsys.readouterr().out
    assert "untrained" in said and "find the relief of a colour picture" in said
    assert {"earth.png", "training.png", "zones.png", "places.png", "relief.png"} <= {
        p.name for p in (run / "figures").iterdir()
    }
    main(["index", str(run), "--data", "globe"])
    main(
        [
            "search",
            str(run),
            "--query",
            "places=Norway; Troms; Tromso",
            "--fields",
            "colour",
            "--k",
            "3",
            "--sheet",
            str(run / "found.png"),
        ]
    )
    assert (run / "found.png").stat().st_size > 10_000
