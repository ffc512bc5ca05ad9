"""A program that behaves as adb does, with one folder for a phone: everything but adb itself is real.

What it is told lies in `scenario.json` in the folder that FAKE_ADB names; the phone's files lie in `phone/` beside it,
and every call is written to `calls.txt`. Paths below /data/local/tmp are the folder's, commands run in this machine's
shell.

    devices     {serial: state}, what `adb devices` lists
    properties  what `getprop` answers
    free_kib    of storage: what `df` says
    full        pushing a file ends with a full storage, whatever `df` said
    pull_at_push   the cable is pulled while a file is copied
    damage      the file that arrives is not the one that was sent
    kill_after, disconnect_after   answers of the bench program until Android ends it, or the cable is pulled
    on_factor   MTP's speed against plain decoding, instead of the measured one
    on_text     what MTP says, instead of what it said
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_ADB"])
SCENARIO = json.loads((HOME / "scenario.json").read_text("utf-8"))
PHONE = HOME / "phone"
GONE = HOME / "gone"
TEMPORARY = "/data/local/tmp"


def main(arguments: list[str]) -> int:
    with (HOME / "calls.txt").open("a", encoding="utf-8") as calls:
        calls.write(" ".join(arguments) + "\n")
    if arguments == ["devices"]:
        print("List of devices attached")
        for serial, state in SCENARIO["devices"].items():
            print(f"{serial}\t{state}")
        print()
        return 0
    serial, verb, *rest = arguments[1:]
    if SCENARIO["devices"].get(serial) != "device" or GONE.exists():
        print(f"error: device '{serial}' not found", file=sys.stderr)
        return 1
    return {"get-state": get_state, "push": push, "shell": shell}[verb](*rest)


def get_state() -> int:
    print("device")
    return 0


def push(source: str, place: str) -> int:
    if SCENARIO.get("full"):
        said = f"adb: error: failed to copy '{source}' to '{place}': remote write failed: No space left on device"
        print(said, file=sys.stderr)
        return 1
    target = on_phone(place)
    if SCENARIO.get("pull_at_push"):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        GONE.touch()
        print(f"adb: error: failed to copy '{source}' to '{place}': remote write failed", file=sys.stderr)
        return 1
    shutil.copy(source, target)
    if SCENARIO.get("damage"):
        Path(target).write_bytes(b"X" + Path(target).read_bytes()[1:])
    print(f"{source}: 1 file pushed, 0 skipped.")
    return 0


def shell(command: str) -> int:
    words = command.split()
    if words[0] == "getprop":
        print(SCENARIO["properties"].get(words[1], ""))
        return 0
    if words[0] == "df":
        print("Filesystem     1K-blocks     Used Available Use% Mounted on")
        print(f"/dev/block/dm-5 112345678 1234567 {SCENARIO['free_kib']}   2% /data")
        return 0
    (PHONE / "data" / "local" / "tmp").mkdir(parents=True, exist_ok=True)
    if "mtp-bench" not in words[0]:
        return subprocess.run(["sh", "-c", on_phone(command)], check=False).returncode
    return bench(command)


def bench(command: str) -> int:
    answers = 0
    with subprocess.Popen(["sh", "-c", "exec " + on_phone(command)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(changed(line), end="", flush=True)
            answers += "prompt" in json.loads(line)
            if answers and answers == SCENARIO.get("kill_after"):
                process.kill()
                print("Killed", file=sys.stderr)
                return 137
            if answers and answers == SCENARIO.get("disconnect_after"):
                process.kill()
                GONE.touch()
                return 255
        return process.wait()


def changed(line: str) -> str:
    value = json.loads(line)
    if "prompt" not in value:
        return line
    if factor := SCENARIO.get("on_factor"):
        value["on"]["tokens_per_second"] = factor * value["off"]["tokens_per_second"]
    if text := SCENARIO.get("on_text"):
        value["on"]["text"], value["equal"] = text, False
    return json.dumps(value) + "\n"


def on_phone(text: str) -> str:
    return text.replace(TEMPORARY, str(PHONE) + TEMPORARY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
