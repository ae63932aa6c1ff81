"""Known weaknesses of the installed packages, by pip-audit.

The exit code is 0 if all were looked up and none has any, 1 if some have, and 2 if some could not
be looked up: pip-audit passes those over and calls it a success, and no answer is not a clean bill.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(command: tuple[str, ...] = (sys.executable, "-m", "pip_audit")) -> int:
    asked = [
        *command,
        "--skip-editable",
        "--progress-spinner",
        "off",
        "--timeout",
        "20",
        "--format",
        "json",
    ]
    done = subprocess.run(asked, capture_output=True, text=True)
    try:
        found = [
            e
            for e in json.loads(done.stdout)["dependencies"]
            if "editable" not in e.get("skip_reason", "")
        ]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        print(
            f"audit: NOT DONE, the advisory service could not be asked: {reason[:300]}",
            file=sys.stderr,
        )
        return 2
    weak = [entry for entry in found if entry.get("vulns")]
    for entry in weak:
        for known in entry["vulns"]:
            mended = ", ".join(known.get("fix_versions", [])) or "no version"
            print(f"{entry['name']} {entry.get('version', '')}: {known['id']}, mended in {mended}")
    unknown = [e["name"] for e in found if e.get("skip_reason")]
    looked = len(found) - len(unknown)
    print(f"audit: {looked} of {len(found)} packages looked up, {len(weak)} with known weaknesses")
    if unknown:
        few = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        state = "NOT DONE" if len(unknown) > len(found) / 2 else "NOT COMPLETE"
        print(
            f"audit: {state}, the advisory service did not know or did not answer for {len(unknown)} ({few}); "
            "run `make audit` where the network is open",
            file=sys.stderr,
        )
    return 1 if weak else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
