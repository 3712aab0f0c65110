"""Label files as users have reported them, and the kinds of them."""

from label_files import IMAGES, PRESENT, Layout

CLASSES = ("cat", "dog", "person")
JPEGS = [f"{i:06d}.jpg" for i in range(1, IMAGES + 1)]
EXPECTED = dict.fromkeys(CLASSES, IMAGES // 2)
FOUND = [[c for c, value in zip(CLASSES, row, strict=True) if value] for row in PRESENT]
ONES = [[int(value) for value in row] for row in PRESENT]
SIGNS = [[2 * value - 1 for value in row] for row in ONES]


def _table(rows: list, header: tuple = ("filename", *CLASSES), mark: str = ",") -> str:
    return "".join(mark.join(map(str, row)) + "\n" for row in [header, *rows])


def _named(rows: list) -> list:
    return [(name, *row) for name, row in zip(JPEGS, rows, strict=True)]


def _case(name: str, content: str | bytes, options: dict | None = None, **fields) -> Layout:
    fields = {"images": JPEGS, "expected": EXPECTED} | fields
    return Layout(name, "labels.csv", content, options=options or {}, **fields)


def _cells(cell) -> str:
    return _table([(name, f'"{cell(x)}"') for name, x in zip(JPEGS, FOUND, strict=True)], HEADER)


HEADER = ("filename", "labels")
PLAIN, FLAGS = _table(_named(ONES)), [int(i % 4 == 0) for i in range(IMAGES)]
WITH_FLAG = [(*row, flag) for row, flag in zip(_named(ONES), FLAGS, strict=True)]
WITH_WORD = [(*row, bool(flag)) for row, flag in zip(_named(ONES), FLAGS, strict=True)]
WITH_MORE = _table(
    [(name, "Male", 40, *x) for name, *x in _named(ONES)], ("filename", "Sex", "Age", *CLASSES)
)
ONE_EACH = [(name, label) for name, x in zip(JPEGS, FOUND, strict=True) for label in x]

OF_EXCEL = PLAIN.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig")

CASES = (
    _case("−1 without 0", _table(_named(SIGNS)), expected=None),
    _case("the same", _table(_named(SIGNS)), {"minus_one": "absent"}),
    _case("Python lists", _cells(lambda x: repr(x))),
    _case("JSON lists", _cells(lambda x: "[" + ", ".join(f'""{name}""' for name in x) + "]")),
    _case(
        "a column of 0 and 1 called is_valid",
        _table(WITH_FLAG, ("filename", *CLASSES, "is_valid")),
        expected=None,
    ),
    _case(
        "the same",
        _table(WITH_FLAG, ("filename", *CLASSES, "is_valid")),
        {"split_column": "is_valid"},
    ),
    _case(
        "True and False in is_valid",
        _table(WITH_WORD, ("filename", *CLASSES, "is_valid")),
        {"split_column": "is_valid"},
    ),
    _case(
        "columns Sex and Age",
        WITH_MORE,
        expected=None,
    ),
    _case(
        "the same",
        WITH_MORE,
        {"ignore_columns": "Sex,Age"},
    ),
    _case(
        "the index of pandas",
        _table([(i, *row) for i, row in enumerate(_named(ONES))], ("", "filename", *CLASSES)),
    ),
    _case("names without extension", PLAIN.replace(".jpg", "")),
    _case("one row per label", _table(ONE_EACH, ("filename", "label")), images=JPEGS),
    _case("True and False", _table(_named(PRESENT))),
    _case("absolute paths", _table([("{folder}/" + name, *x) for name, *x in _named(ONES)])),
    _case(
        "absolute paths of another machine",
        _table([("/home/ada/photos/" + name, *x) for name, *x in _named(ONES)]),
    ),
    _case(
        "addresses",
        _table([("https://example.org/photos/" + name, *x) for name, *x in _named(ONES)]),
    ),
    _case("numbers without their zeros", PLAIN.replace("\n0000", "\n").replace("\n0", "\n")),
    _case("another extension", PLAIN.replace(".jpg", ".png")),
    _case("a title above the header", f"Labels of the spring\n\n{PLAIN}"),
    _case("comments above the header", f"# exported, version 2\n{PLAIN}"),
    _case("two files in one, each with a header", PLAIN + PLAIN.splitlines(keepends=True)[0]),
    _case("a comma at the end of each row", PLAIN.replace("0\n", "0,\n").replace("1\n", "1,\n")),
    _case(
        "a column that pandas found twice",
        PLAIN.replace(f"{CLASSES[0]},{CLASSES[1]}", f"{CLASSES[0]},{CLASSES[0]}.1", 1),
        expected=None,
    ),
    _case("a missing image", PLAIN, images=JPEGS[:-1], expected=None),
    _case(
        "the same",
        PLAIN,
        {"on_bad_image": "skip", "max_bad_fraction": "0.1"},
        images=JPEGS[:-1],
    ),
    _case("semicolons, BOM, CRLF", OF_EXCEL),
    _case("tabs, UTF-16", PLAIN.replace(",", "\t").encode("utf-16")),
    _case("images in subfolders", PLAIN, images=[f"part_{i % 2}/{x}" for i, x in enumerate(JPEGS)]),
    _case("soft labels", _table(_named([[0.25 + 0.5 * value for value in row] for row in ONES]))),
    Layout(
        "class folders",
        "",
        "",
        [
            f"{split}/{name}/{i}.jpg"
            for i, (split, name) in enumerate(
                (split, name) for split in ("train", "val") for name in CLASSES
            )
        ],
        expected=dict.fromkeys(CLASSES, 2),
    ),
)
