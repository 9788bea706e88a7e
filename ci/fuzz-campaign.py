"""Coverage-guided fuzzing of every decoder, beyond what continuous integration has time for (docs/fuzzing.md).

    pip install atheris
    python ci/fuzz-campaign.py --seconds 60                        each decoder for a minute
    python ci/fuzz-campaign.py --seconds 3600 "protocol message"   one of them for an hour
    python ci/fuzz-campaign.py --replay FILE "protocol message"    one input again

The decoders and what they promise are those of the test suite (`tests/kit/decoders`). Each runs in its own process,
with its valid inputs as the first corpus; what reaches new code is kept in `--corpus` and found again by the next run.
Exit code 0: no finding; 1: findings, each printed with the file that holds its input.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

_MOST_INPUT_BYTES = 4096
_SECONDS_PER_INPUT = 5
_CHILD = "--child"
_LAST_WORDS = re.compile(r"^(?:Finding|[\w.]+(?:Error|Exception)|==\d+== ERROR).*", re.MULTILINE)


@dataclass
class Outcome:
    """What came of one decoder."""

    name: str
    executions: int
    coverage: int
    corpus: int
    finding: Path | None
    words: str


def slug(name: str) -> str:
    """The decoder's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def fuzz_one(name: str, corpus: Path, seconds: int, *, planted: bool) -> None:
    """In the child: hand the process over to atheris, which ends it."""
    import atheris

    with atheris.instrument_imports(include=["smartbft", "oracles", "tomllib", "ipaddress"]):
        from kit.decoders import ALL
        from kit.fuzzing import judge
    decoder = next(decoder for decoder in ALL if decoder.name == name)
    if planted:
        decoder = decoder.with_planted_bug()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(decoder.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_MOST_INPUT_BYTES}",
        f"-timeout={_SECONDS_PER_INPUT}",
        f"-artifact_prefix={corpus.parent / ('finding-' + corpus.name)}-",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    if decoder.fields:
        dictionary = corpus.parent / f"{corpus.name}.dictionary"
        dictionary.write_text("".join(f'"{escaped(field)}"\n' for field in decoder.fields))
        options.append(f"-dict={dictionary}")

    def target(data: bytes) -> None:
        if decoder.guide is not None:
            with contextlib.suppress(Exception):
                decoder.guide(data)
        judge(decoder, data)

    mutator = decoder.mutator(0, decoder.fields)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """By turns as libFuzzer does, as the test suite does, and with checksums that fit where there are some."""
        if seed & 1:
            return bytes(atheris.Mutate(data, most))
        mutator.random.seed(seed)
        if decoder.generate is not None and seed & 2:
            return decoder.generate(mutator, data)[:most]
        return mutator.mutate(data, mutator.pick(decoder.seeds))[:most]

    atheris.Setup([sys.argv[0], *options, str(corpus)], target, custom_mutator=mutate)
    atheris.Fuzz()


def escaped(field: bytes) -> str:
    """A field as libFuzzer's dictionaries write it."""
    return "".join(f"\\x{byte:02x}" for byte in field)


def run(name: str, corpus: Path, seconds: int, *, planted: bool) -> Outcome:
    """One decoder in a process of its own."""
    arguments = [sys.executable, str(Path(__file__)), _CHILD, name, "--corpus", str(corpus), "--seconds", str(seconds)]
    arguments += ["--planted"] if planted else []
    before = set(corpus.glob("finding-*"))
    done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
    said = done.stderr + done.stdout
    new = sorted(set(corpus.glob("finding-*")) - before)
    statistics = dict(re.findall(r"stat::(\w+):\s+(\d+)", said))
    coverage = re.findall(r"cov: (\d+)", said)
    words = ""
    if done.returncode != 0:
        told = _LAST_WORDS.findall(said)
        words = told[-1] if told else said.strip()[-500:]
    return Outcome(
        name,
        int(statistics.get("number_of_executed_units", 0)),
        int(coverage[-1]) if coverage else 0,
        len(list((corpus / slug(name)).glob("*"))),
        new[0] if new else None,
        words,
    )


def replay(name: str, path: Path) -> int:
    """One input through one decoder, without atheris."""
    from kit.decoders import ALL
    from kit.fuzzing import Finding, judge

    decoder = next(decoder for decoder in ALL if decoder.name == name)
    try:
        print("accepted" if judge(decoder, path.read_bytes()) else "refused, as it should be")
    except Finding as finding:
        print(finding)
        return 1
    return 0


def report(outcomes: list[Outcome]) -> int:
    """Print the table and the findings; returns the exit code."""
    print(f"\n{'decoder':42} {'executions':>11} {'edges':>6} {'corpus':>7}  verdict")
    for outcome in outcomes:
        verdict = "FINDING" if outcome.words else "ok"
        print(f"{outcome.name:42} {outcome.executions:11,} {outcome.coverage:6} {outcome.corpus:7}  {verdict}")
    findings = [outcome for outcome in outcomes if outcome.words]
    for outcome in findings:
        print(f"\n{outcome.name}: {outcome.words}")
        if outcome.finding is not None:
            print(f'again: python {Path(__file__).name} --replay {outcome.finding} "{outcome.name}"')
    total = sum(outcome.executions for outcome in outcomes)
    print(f"\n{len(outcomes)} decoders, {total:,} executions, {len(findings)} findings")
    return 1 if findings else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="DECODER", help="names of decoders; all unless given")
    parser.add_argument("--seconds", type=int, default=60, help="for each decoder (default 60)")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build" / "fuzz", help="folder (default build/fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try one input again, and nothing else")
    parser.add_argument("--planted", action="store_true", help="run the versions with planted bugs: each must be found")
    parser.add_argument("--list", action="store_true", help="print the names of the decoders")
    parser.add_argument(_CHILD, metavar="DECODER", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        fuzz_one(chosen.child, chosen.corpus / slug(chosen.child), chosen.seconds, planted=chosen.planted)
        return 0

    from kit.decoders import ALL

    known = [decoder.name for decoder in ALL]
    if chosen.list:
        print("\n".join(known))
        return 0
    for name in chosen.names:
        if name not in known:
            parser.error(f'there is no decoder "{name}": --list names them')
    if chosen.replay is not None:
        if len(chosen.names) != 1:
            parser.error("--replay needs the name of one decoder")
        return replay(chosen.names[0], chosen.replay)
    try:
        import atheris  # noqa: F401
    except ImportError:
        parser.error("atheris is not installed: pip install atheris (Linux; see docs/fuzzing.md)")
    chosen.corpus.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in chosen.names or known:
        outcome = run(name, chosen.corpus, chosen.seconds, planted=chosen.planted)
        print(f"{name}: {outcome.executions:,} executions{', FINDING' if outcome.words else ''}", flush=True)
        outcomes.append(outcome)
    return report(outcomes)


if __name__ == "__main__":
    sys.exit(main())
