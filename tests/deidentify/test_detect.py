import json

import numpy as np
import pandas as pd
import pytest

from privae.data.drafting import draft, draft_toml
from privae.data.examples import load_table
from privae.data.schema import Schema
from privae.deidentify.detect import Finding, beside, detect, identifiers, summary
from privae.deidentify.names import KINDS, named
from privae.errors import UsageError

ROWS = 60
CANARY = "canary"


def found(frame):
    return {finding.column: finding for finding in detect(pd.DataFrame(frame))}


def kinds(frame):
    return {name: finding.kind for name, finding in found(frame).items()}


NAMES = {
    "name": ["name", "姓名", "first_name", "CustomerName", "患者姓名", "FULLNAME", "name_of_patient"],
    "address": ["address", "地址", "home_address", "addr_line_1", "家庭住址"],
    "phone": ["phone", "HomePhone2", "电话", "telephone number", "fax"],
    "mobile": ["手机号", "联系手机"],
    "resident ID": ["身份证", "身份证号码", "id_card_no", "sfz"],
    "e-mail": ["email", "邮箱", "e-mail", "emailAddress", "customer.email"],
    "birth date": ["dob", "birth_date", "出生日期", "dateOfBirth", "生日"],
    "patient number": ["mrn", "patient_id", "病历号", "住院号", "医保卡号", "就诊卡号"],
    "account": ["account", "账号", "bank_account_no", "userName", "微信号"],
    "card": ["credit_card", "银行卡号", "card_number"],
    "plate": ["plate", "车牌", "license_plate", "VIN"],
    "IP address": ["ip", "client_ip", "ipAddress", "IPv4", "IP地址"],
    "device": ["device_id", "IMEI", "设备号", "serial_no"],
    "SSN": ["ssn", "SSN_last_four"],
    "passport": ["passport", "护照", "passport_no"],
    "postcode": ["zip", "zip5", "postcode", "邮编", "postal_code"],
    "age": ["age", "年龄", "age_at_admission"],
    "sex": ["sex", "gender", "性别"],
    "record number": ["ward_id", "uuid", "ID"],
}
NOT_NAMES = [
    "product_name", "file name", "phone_model", "phone_minutes", "account_type", "account balance", "card_type",
    "email_opt_in", "has_email", "is_valid_ssn", "num_phone", "plate_count", "mean_age_gap", "hours_per_week", "wage",
    "capital_gain", "education_num", "ward", "amount", "last_updated", "description", "手机品牌", "医保类型", "电话费",
    "是否有邮箱", "cell", "sin", "last_login", "medicaid", "手机号归属地",
    "ship", "zipper", "message", "sextant", "", " ", "_", "12", "住院天数",
]  # fmt: skip


def test_columns_are_known_by_their_names_in_english_and_chinese():
    told = {name: named(name) for names in NAMES.values() for name in names}
    assert {name: kind and kind.name for name, kind in told.items()} == {
        name: kind for kind, names in NAMES.items() for name in names
    }


def test_names_that_only_hold_such_a_word_are_left_alone():
    assert {name: named(name) for name in NOT_NAMES} == dict.fromkeys(NOT_NAMES)


def planted(rng):
    phones = [f"1{3 + i % 7}{rng.integers(10**8, 10**9)}" for i in range(ROWS)]
    return {
        "a": [f"{CANARY}{i}@example.com" for i in range(ROWS)],
        "b": phones,
        "c": [int(phone) for phone in phones],
        "d": [f"10.0.{i}.7" for i in range(ROWS)],
        "e": ["11010519491231002X", None, "NA"] * (ROWS // 3),
        "f": [f"see notes, call 1381234{i:04d} if the patient comes back" for i in range(ROWS)],
        "g": [f"患者{CANARY}自述头痛三天，无发热，建议休息，第{i}次就诊" for i in range(ROWS)],
        "h": [f"AB-{i * 7919 % 10007}-X" for i in range(ROWS)],
        "i": range(1, ROWS + 1),
        "j": rng.permutation(ROWS) * 7 + 500_123,
        "k": ["(212) 555-0100", f"+86 {phones[0]}"] * (ROWS // 2),
        "l": [f"{CANARY} <{CANARY}{i}@example.com>" for i in range(ROWS)],
    }


EXPECTED = {
    "a": "e-mail", "b": "mobile", "c": "mobile", "d": "IP address", "e": "resident ID", "f": "free text",
    "g": "free text", "h": "record number", "i": "row number", "j": "record number", "l": "e-mail",
}  # fmt: skip


def test_columns_are_known_by_their_values():
    told = found(planted(np.random.default_rng(0)))
    assert told.pop("k").kind in ("phone", "mobile")
    assert {name: finding.kind for name, finding in told.items()} == EXPECTED
    assert [name for name, finding in told.items() if not finding.drops] == ["j"]
    assert told["e"].share == "nearly all"
    assert CANARY not in repr(told)
    assert CANARY not in json.dumps([finding.to_dict() for finding in told.values()])


def test_clean_columns_name_nobody():
    rng = np.random.default_rng(1)
    times = pd.date_range("2020-01-01", periods=ROWS, freq="97min")
    clean = {
        "years": rng.integers(18, 95, ROWS),
        "amount": rng.gamma(2, 500, ROWS).round(2),
        "salary": rng.integers(10_000, 10_000_000, ROWS),
        "cents": [f"{value:.2f}" for value in rng.gamma(2, 500, ROWS)],
        "ward": rng.choice(["A1", "B2", "C3"], ROWS),
        "code": rng.choice(["E11.9", "I10", "J45.909"], ROWS),
        "when": times,
        "text_when": times.strftime("%Y-%m-%d %H:%M"),
        "german": times.strftime("%d.%m.%Y"),
        "clock": times.strftime("%H:%M:%S"),
        "epoch": times.as_unit("s").asi8,
        "milli": times.as_unit("ms").asi8,
        "stamp": times.strftime("%Y%m%d%H%M%S"),
        "year": range(1960, 1960 + ROWS),
        "score": rng.normal(size=ROWS),
        "flag": rng.random(ROWS) < 0.5,
        "phone": rng.random(ROWS) < 0.5,
        "version": rng.choice(["1.2.3", "1.10.0"], ROWS),
    }
    told = found(clean)
    assert [name for name, finding in told.items() if finding.drops] == []
    assert told["phone"].lines()[0].startswith("may be")


def test_the_packaged_table_names_nobody_and_its_quasi_identifiers_are_known():
    told = detect(load_table()[0].head(3000))
    assert {finding.column for finding in told} == {"age", "occupation", "race", "sex", "native_country"}
    assert not [finding for finding in told if finding.direct]


def test_names_and_values_are_weighed():
    mail = [f"{i}@x.org" for i in range(ROWS)]
    told = found(
        {"email": mail, "phone": mail, "account": ["4111111111111111"] * 2 + ["x", "y"] * 29, "age": mail}
    )
    assert {name: (f.kind, f.found) for name, f in told.items()} == {
        "email": ("e-mail", ("name", "values")),
        "phone": ("e-mail", ("values",)),
        "account": ("account", ("name",)),
        "age": ("e-mail", ("values",)),
    }


def test_any_table_is_looked_at():
    assert detect(pd.DataFrame()) == []
    assert kinds({"email": [], "x": []}) == {"email": "e-mail"}
    odd = {"x": [[1], {2}], "y": [b"\xff", 1j], "z": [None, None], "": ["a", float("nan")]}
    assert kinds(odd) == {}
    assert kinds({0: ["a@b.com", "c@d.com"]}) == {"0": "e-mail"}
    many = pd.DataFrame({"m": np.arange(60_000) + 13_800_000_000, "n": np.arange(60_000)})
    assert kinds(many) == {"m": "mobile", "n": "row number"}


def test_for_refusals_only_what_names_or_values_tell_counts():
    frame = pd.DataFrame(planted(np.random.default_rng(0)))
    told = identifiers(frame, ["a", "h", "i", "j", "absent"])
    assert told == {"a": "an e-mail address"}


def test_every_kind_can_be_said_and_proposes_what_the_schema_may_say():
    actions = {"drop", "mask", "pseudonymize", "generalize", "shift", "round", "code", "surrogate", "keep"}
    for kind in KINDS:
        finding = Finding("x", kind.name, ("name",), "", "likely")
        assert finding.lines()[0].startswith("looks like ")
        assert {kind.action, *([] if kind.instead is None else [kind.instead[0]])} <= actions
        assert finding.drops == kind.direct
        assert "\n" not in "".join(finding.lines())
    age = Finding("x", "age", ("name",), "", "likely").lines()[1]
    assert (
        age == 'proposed: kind = "ordinal", action = "generalize", rule = { width = 10, low = 0, high = 90 }'
    )
    assert 'kind = "category", action' in Finding("x", "postcode", ("name",), "", "likely").lines()[1]
    assert 'locale = "zh_CN"' in Finding("姓名", "name", ("name",), "", "likely").lines()[1]


def test_a_draft_says_what_was_seen_and_leaves_identifiers_out_until_a_person_decides():
    frame = pd.DataFrame(
        {"mail": [f"{CANARY}{i}@x.org" for i in range(5)], "age": range(5), "ward": list("abcde")}
    )
    looks = beside(detect(frame))
    drafted = draft(frame, looks=looks)
    text = draft_toml(drafted, looks)
    assert [column.action for column in drafted.columns] == ["drop", "keep", "keep"]
    assert not any(column.confirmed for column in drafted.columns)
    assert (
        "[columns.mail]\n# looks like an e-mail address (by its name and nearly all values)\n# proposed: action"
        in text
    )
    assert "# looks like an age (by its name): with others it tells people apart\n" in text
    assert CANARY not in text
    assert Schema.loads(text) == drafted
    with pytest.raises(UsageError, match="unconfirmed"):
        Schema.loads(text).check()
    assert summary(detect(frame)).splitlines() == [
        "look like identifiers, and are left out: mail", "tell people apart together: age"
    ]  # fmt: skip
    assert summary([]) == ""
    assert draft(frame, public=True, looks=looks).columns[0].action == "drop"
    assert draft_toml(draft(frame)) == draft_toml(draft(frame, looks={}), {})


def test_a_column_name_cannot_break_out_of_its_comment():
    frame = pd.DataFrame({'email\n[columns.x]\nkind = "boolean"': ["a@b.com"], "ok": ["x"]})
    looks = beside(detect(frame))
    assert Schema.loads(draft_toml(draft(frame, looks=looks), looks)).columns[0].name == frame.columns[0]


def test_numbers_with_many_digits_after_the_point_are_no_cards_and_no_values_are_nothing():
    drawn = pd.DataFrame({"x": np.random.default_rng(0).normal(size=3000) * 300, "h": [None] * 3000})
    assert identifiers(drawn, ["x", "h"]) == {}
    assert identifiers(drawn.astype(str), ["x", "h"]) == {}
