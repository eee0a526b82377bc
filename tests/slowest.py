"""Print the ten slowest tests of `make test`, from the files that pytest --junitxml wrote.

Set-up counts to the test that first needs it, so a server or a run that a file shares is seen.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

NUM_PRINTED = 10


def main(folder: Path) -> None:
    """Print one line each, the slowest first."""
    cases = [
        case for path in folder.glob("*.xml") for case in ElementTree.parse(path).iter("testcase")
    ]
    cases.sort(key=lambda case: -float(case.attrib["time"]))
    print(f"The {NUM_PRINTED} slowest of {len(cases)} tests:")
    for case in cases[:NUM_PRINTED]:
        seconds, file, name = (case.attrib[key] for key in ("time", "classname", "name"))
        print(f"{float(seconds):7.1f} s  {file}::{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
