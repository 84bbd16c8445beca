"""Kinds of identifiers and quasi-identifiers: what columns of them are called, in English and Chinese, and what to do.

Which kinds tell who somebody is by themselves follows 45 CFR 164.514(b)(2)(i) (HIPAA, safe harbor); the others tell
people apart together, as birth date, sex and postcode do (Sweeney 2000, Carnegie Mellon LIDAP-WP4).
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

Rule = Mapping[str, Any] | None


@dataclass(frozen=True)
class Kind:
    """A kind of column. direct: it tells who somebody is by itself.

    words: "an e-mail address"; action, rule: what is proposed; instead: what to do where the column is needed;
    english, chinese: names of such columns, separated by commas, and by spaces.
    """

    name: str
    words: str
    direct: bool
    action: str
    rule: Rule = None
    instead: tuple[str, Rule] | None = None
    english: str = ""
    chinese: str = ""

    @cached_property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The English names, each as words."""
        return tuple(tuple(name.split()) for name in self.english.split(",") if name.strip())


def _direct(
    name: str, words: str, instead: tuple[str, Rule] | None, english: str = "", chinese: str = ""
) -> Kind:
    return Kind(name, words, True, "drop", None, instead, english, chinese)


def _quasi(name: str, words: str, proposed: tuple[str, Rule], english: str, chinese: str) -> Kind:
    return Kind(name, words, False, *proposed, None, english, chinese)


_TOKENS: tuple[str, Rule] = ("pseudonymize", None)
_LAST_FOUR: tuple[str, Rule] = ("mask", {"last": 4})

KINDS = (
    _direct(
        "e-mail", "an e-mail address", ("mask", {"first": 1, "after": "@"}),
        "email, e mail, mail, email address, mail address, youxiang", "邮箱 电子邮件 邮件地址",
    ),
    _direct(
        "phone", "a phone number", _TOKENS,
        "phone, telephone, tel, mobile, cellphone, cell phone, mobile phone, msisdn, fax, dianhua",
        "电话 座机 传真 联系方式",
    ),
    _direct("mobile", "a mobile number", _TOKENS, "shouji, shoujihao", "手机 手机号"),
    _direct("SSN", "a social security number", _TOKENS, "ssn, social security, social security number, nino"),
    _direct(
        "resident ID", "a number of an identity card", _TOKENS,
        "id card, id card no, id card number, identity card, identity number, national id, citizen id, id number, "
        "id no, aadhaar, cpf, "
        "shenfenzheng, sfz, sfzh", "身份证 证件号 公民身份号码",
    ),
    _direct("passport", "a passport number", _TOKENS, "passport, passport id", "护照 通行证号"),
    _direct("IBAN", "a bank account (IBAN)", _LAST_FOUR, "iban"),
    _direct(
        "card", "a payment card", _LAST_FOUR, "credit card, debit card, bank card, card number, card no, cc num, pan",
        "银行卡 信用卡号 卡号",
    ),
    _direct(
        "account", "an account", _TOKENS,
        "account, acct, account id, bank account, routing number, username, user name, login name, nickname, "
        "nick name, screen name, user handle, wechat, weixin, qq, customer account",
        "账号 帐号 账户 用户名 昵称 微信 QQ",
    ),
    _direct(
        "license", "a license or certificate number", _TOKENS,
        "driver license, drivers license, driver licence, driving licence, license number, licence number, "
        "license no, certificate number, npi", "驾驶证 驾照 执业证",
    ),
    _direct(
        "plate", "a vehicle's plate or number", _TOKENS,
        "plate, license plate, licence plate, number plate, vin, vehicle id", "车牌 车架号",
    ),
    _direct(
        "patient number", "a patient's number", _TOKENS,
        "mrn, medical record, medical record number, patient id, patient number, patient no, nhs number, "
        "hospital number, admission number, encounter id, visit id, insurance number, policy number, "
        "health plan number, medicare number, medicaid number",
        "病历号 病案号 住院号 门诊号 就诊卡 就诊卡号 医保号 医保卡 医保卡号 社保号 "
        "社保卡 社保卡号 患者编号 病人编号",
    ),
    _direct(
        "person number", "a person's number", _TOKENS,
        "person id, user id, customer id, client id, employee id, employee number, employee no, student id, staff id, "
        "member id, member number, subject id, participant id, tax id, tin, customer number, client number",
        "工号 学号 客户号 客户编号 会员号 会员编号 员工编号 纳税人识别号 用户ID",
    ),
    _direct(
        "device", "a device's number", _TOKENS,
        "device id, device serial, serial, serial number, serial no, imei, imsi, iccid, udid, idfa, gaid, "
        "advertising id, mac addr, mac address", "设备号 设备编号 序列号",
    ),
    _direct("device address", "a device's address", _TOKENS),
    _direct("IP address", "an IP address", _TOKENS, "ip, ip address, ip addr, ipv, ip v, remote addr", "IP地址"),
    _direct("URL", "a web address", None, "url, website, web site, homepage, home page", "网址 个人主页"),
    _direct("USCC", "a unified social credit code", _TOKENS, "uscc, unified social credit code", "信用代码"),
    _direct(
        "name", "a person's name", ("surrogate", {"provider": "name"}),
        "full name, first name, last name, given name, family name, middle name, surname, forename, maiden name, "
        "contact person, next of kin, emergency contact, xingming", "姓名 名字 联系人 姓氏 曾用名",
    ),
    _direct(
        "address", "a postal address", ("surrogate", {"provider": "address"}),
        "address, addr, street, street address, house number, apartment number, dizhi", "地址 住址 门牌号",
    ),
    _direct(
        "biometric", "a picture or a measure of a body", None,
        "fingerprint, photo, photograph, face image, voiceprint, retina scan, signature", "指纹 照片 签名 人脸",
    ),
    _direct("record number", "a number that one record has", _TOKENS, "uuid, guid", "流水号"),
    _direct("row number", "a number of rows, one after another", None),
    _direct("free text", "free text", ("mask", {"text": True})),
    _quasi(
        "birth date", "a date of birth", ("generalize", {"date": "year"}),
        "dob, birth date, birthdate, date of birth, birthday, birth day, born", "出生日期 生日 出生年月",
    ),
    _quasi("age", "an age", ("generalize", {"width": 10, "low": 0, "high": 90}), "age, age years", "年龄"),
    _quasi("sex", "a sex", ("keep", None), "sex, gender, xingbie", "性别"),
    _quasi(
        "postcode", "a postcode", ("generalize", {"prefix": 3}),
        "zip, zip code, postcode, post code, postal code, postal", "邮编 邮政编码",
    ),
    _quasi(
        "place", "a place", ("generalize", {"hierarchy": "places.csv", "level": 1}),
        "city, town, village, county, district, municipality, birthplace, birth place, place of birth, neighborhood",
        "城市 区县 籍贯 出生地 户籍 所在地",
    ),
    _quasi(
        "coordinate", "a coordinate", ("round", {"to": 0.1}), "lat, latitude, lon, lng, longitude, gps", "经度 纬度"
    ),
    _quasi(
        "origin", "an origin", ("keep", None),
        "race, ethnicity, ethnic group, nationality, citizenship, native country, country of birth, religion",
        "民族 国籍 宗教 种族",
    ),
    _quasi("occupation", "an occupation", ("keep", None), "occupation, profession, job title", "职业 职务"),
    _quasi(
        "date", "a date of an event", ("shift", {"days": 30}),
        "admission date, date of admission, discharge date, date of discharge, visit date, date of visit, "
        "death date, date of death, exam date", "入院日期 出院日期 就诊日期 死亡日期 入院时间 出院时间 就诊时间",
    ),
)  # fmt: skip
KIND = {kind.name: kind for kind in KINDS}

_WORD = re.compile("[a-z]+|[0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# a name may go on like this and still name the same: "phone_number_2", but not "phone_minutes"
_TAIL = _set(
    "number no num nr nbr code value text str string raw orig original new old primary secondary main home work office "
    "private personal business last four digits line src dst source client server hash hashed enc encrypted full "
    "patient of en cn zh x y"
)
_COUNTS = _set("is has had n num count number avg mean total same valid")  # before what is no value
_PEOPLE = _set(
    "patient customer client person employee student member contact doctor physician nurse mother father spouse "
    "guardian child parent applicant holder owner staff resident subject participant driver passenger insured "
    "beneficiary cardholder respondent your my legal"
)
_NAMED = _PEOPLE | {"name", "of", "the"}
_IDS = frozenset(("id", "uuid", "guid"))
_NOT_IT = re.compile(
    "归属|运营商|价格|金额|积分|流量|时长|类型|类别|状态|数量|是否|品牌|型号|余额|次数|费|等级|长度|年限|比例|有无"
)


@cache
def named(column: str) -> Kind | None:
    """What a column is by its name; None where the name says nothing. A function of the name alone.

    >>> [kind and kind.name for kind in map(named, ["HomePhone2", "患者手机号", "phone_minutes", "product name"])]
    ['phone', 'mobile', None, None]
    """
    name = unicodedata.normalize("NFKC", column).strip()
    words = _WORD.findall(_CAMEL.sub(" ", name).lower())
    return _in_chinese(name) or _in_english(words)


def _in_chinese(name: str) -> Kind | None:
    if _NOT_IT.search(name):
        return None
    held = [
        (name.rindex(word) + len(word), len(word), -place)
        for place, kind in enumerate(KINDS)
        for word in kind.chinese.split()
        if word in name and not (word == "QQ" and name != "QQ" and not name.startswith("QQ号"))
    ]
    return KINDS[-max(held)[2]] if held else None


def _in_english(words: list[str]) -> Kind | None:
    while words and words[-1].isdigit():
        words = words[:-1]
    if not words or (len(words) > 1 and words[0] in _COUNTS):
        return None
    if (words[-1] == "name" and set(words[-2:]) <= _NAMED) or (words[0] == "name" and set(words) <= _NAMED):
        return KIND["name"]
    held = [
        (end, len(tokens), -place)
        for place, kind in enumerate(KINDS)
        for tokens in kind.tokens
        if (end := _end(words, tokens))
    ]
    if held:
        return KINDS[-max(held)[2]]
    squeezed = "".join(words)
    joined = (
        kind for kind in KINDS for tokens in kind.tokens if len(tokens) > 1 and "".join(tokens) == squeezed
    )
    return next(joined, KIND["record number"] if words[-1] in _IDS else None)


def _end(words: list[str], tokens: tuple[str, ...]) -> int:
    """Where the words of a name say these tokens, and nothing that changes them follows; else 0."""
    for end in range(len(words), len(tokens) - 1, -1):
        rest = words[end:]
        if tuple(words[end - len(tokens) : end]) == tokens and (rest[:1] == ["at"] or set(rest) <= _TAIL):
            return end
    return 0
