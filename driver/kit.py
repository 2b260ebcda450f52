"""The offline kit, made in a process of its own: the memory of its training is given back, and a signal ends it at once."""

import json
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from driver import Refused, guard
from driver.in_kernel import in_lines


def values(root: Path, dataset: str, company: str) -> dict:
    """Return mini's {notebook: {parameter: value}} for the data set ("": the embedded one); Refused when it cannot be made."""
    command = [sys.executable, "-m", "driver.kit", str(root / "runs" / "cache"), dataset, company]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(
            f"the mini data and models could not be made (exit status {done.returncode}; -9 means out of memory)."
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise Refused(f"the mini data and models cannot be made. {answer}")
    return answer


def main(cache: Path, dataset: str, company: str) -> None:
    """Print, as JSON, what mini.prepare returns, or the text of the error that says why it cannot."""
    import mini

    in_lines(sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):  # runs in other output folders share the cache
        guard.sweep(cache)
        try:
            answer = mini.prepare(Path(dataset) if dataset else None, company, cache)
        except (ValueError, LookupError, OSError) as error:
            answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
