"""Install this checkout, editable, into the environment that runs this file: `python
scripts/install.py [extra,extra]`.

uv resolves and unpacks about four times faster than pip, but it does not read pip's configuration.
Where that configuration names a local wheel folder and a constraints file (so the small CPU builds
of torch are at hand), uv is told of both; anywhere else plain pip decides, exactly as it would for
any other package.

Bytecode is compiled here, once. Where PYTHONDONTWRITEBYTECODE is set every process would compile
torch, scikit-learn and the rest anew: ten seconds for each command.
"""

import compileall
import subprocess
import sys

PIP = [sys.executable, "-m", "pip"]


def pip_config() -> dict[str, str]:
    """The options of pip's configuration, whichever file or variable they come from."""
    lines = subprocess.run(
        [*PIP, "config", "list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.split(".")[-1].strip(":"): value.strip("'\"") for key, value in pairs}


def main(extras: str = "") -> None:
    target = ["-e", f".[{extras}]" if extras else "."]
    if "dev" in extras.split(","):
        target += ["-e", "./claims"]
    config = pip_config()
    if {"find-links", "constraint"} <= config.keys():
        subprocess.run([*PIP, "install", "-q", "uv"], check=True)
        local = ["--find-links", config["find-links"], "--constraint", config["constraint"]]
        uv = [sys.executable, "-m", "uv", "pip", "install", "-q", "--compile-bytecode"]
        uv += ["--python", sys.executable]
        if subprocess.run([*uv, *local, *target]).returncode == 0:
            compileall.compile_dir("amodal", quiet=2)
            return
        print("uv could not install it; trying pip", file=sys.stderr)
    subprocess.run([*PIP, "install", "--compile", *target], check=True)
    compileall.compile_dir("amodal", quiet=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
