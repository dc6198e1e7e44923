"""Three leaky and three broken protocols, each refused by `superalign check FILE.py:name` with the
way that the secret took (node, secret, seat), or with the node that is to blame."""

import json
from pathlib import Path

import pytest

REFUSED = Path(__file__).parent / "refused"

NO_WAY = "no node on this way writes a verdict: __start__ -> argue -> __end__"
WHY = {
    "leaks_target": [("leak", "argue", "the target reached consultant; no seat may see it")],
    "leaks_note": [
        ("leak", "decide", "private note of consultant reached judge; only consultant may see it")
    ],
    "leaks_thought": [
        ("leak", "decide", "a turn of consultant reached judge; only consultant may see it")
    ],
    "never_decides": [
        ("no verdict", "END", NO_WAY),
        ("no verdict", "END", "never_decides ended without a verdict"),
    ],
    "never_asks": [("silent seat", "consultant", "no rehearsal ever asked this seat")],
}


def test_every_refused_protocol_has_its_reason():
    assert sorted(path.stem for path in REFUSED.glob("*.py")) == sorted([*WHY, "never_ends"])


@pytest.mark.parametrize("name", WHY)
def test_a_protocol_is_refused_for_its_one_mistake(name, superalign):
    code, out, err = superalign("check", f"{REFUSED / name}.py:{name}", "--json")
    found = [(p["kind"], p["where"], p["message"]) for p in json.loads(out)["problems"]]
    assert (code, found, err) == (1, WHY[name], "")


@pytest.mark.parametrize("name", WHY)
def test_the_reason_is_one_line_of_what_people_read(name, superalign):
    code, out, _ = superalign("check", f"{REFUSED / name}.py")
    assert code == 1
    for reason in WHY[name]:
        assert ": ".join(reason) in out.splitlines()
    assert f"{name}: {len(WHY[name])} problems, at most" in out


def test_a_loop_that_one_reply_makes_endless_is_named_with_its_nodes(superalign):
    code, out, _ = superalign("check", f"{REFUSED / 'never_ends'}.py:never_ends", "--json")
    (found,) = {(p["kind"], p["where"]) for p in json.loads(out)["problems"]}
    assert code == 1
    assert found[0] == "endless loop"
    assert set(found[1].split(" -> ")) == {"argue", "decide"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.py:x", "nowhere.py: there is no file here; check its spelling"),
        ("duet.py:solo", "no protocol 'solo'; it has ['duet']"),
        ("broken.py:p", "SyntaxError"),
        ("text.txt", "text.txt:"),
        ("nobody", "no protocol 'nobody'; there are "),
    ],
)
def test_what_cannot_be_checked_is_bad_input(target, said, folder, superalign):
    code, out, err = superalign("check", target)
    assert (code, out, said in err) == (2, "", True), err


def test_no_code_refuses_to_run_a_protocol_s_file(folder, superalign):
    code, _, err = superalign("check", "duet.py:duet", "--no-code")
    assert code == 2
    assert "--no-code: duet.py:duet is code" in err


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("rounds=3", 0, "duet: ok, at most 7 calls an episode"),
        ("rounds=many", 2, "rounds: input should be a valid integer"),
        ("turns=3", 2, "turns: extra inputs are not permitted; parameters of duet: rounds"),
    ],
)
def test_parameters_of_a_protocol_are_set_and_checked(override, code, said, folder, superalign):
    ended, out, err = superalign("check", "duet.py:duet", "--set", override)
    assert (ended, said in out + err) == (code, True), err
