"""The label files of ten public data sets, in their layouts, with made-up rows."""

import json

from label_files import IMAGES, PRESENT, Layout

NUMBERS = range(1, IMAGES + 1)
JPEGS = [f"{i:06d}.jpg" for i in NUMBERS]
HALF = IMAGES // 2


def _names(classes: tuple[str, ...], i: int, mark: str, none: str = "") -> str:
    found = [name for name, value in zip(classes, PRESENT[i], strict=True) if value]
    return mark.join(found) or none


def _counts(classes: tuple[str, ...], none: str = "") -> dict[str, int]:
    return {name: HALF for name in classes} | ({none: 2} if none else {})


def _lines(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def celeba() -> Layout:
    """CelebA's list_attr_celeba.txt: a count, a header without file names, aligned columns."""
    classes = ("5_o_Clock_Shadow", "Bald", "Eyeglasses")
    rows = [
        f"{name} " + " ".join(f"{1 if value else -1:2d}" for value in row)
        for name, row in zip(JPEGS, PRESENT, strict=True)
    ]
    text = _lines(f"{IMAGES}\n{' '.join(classes)} ", rows)
    options = {"minus_one": "absent"}
    expected = _counts(classes)
    return Layout("CelebA", "list_attr_celeba.txt", text, JPEGS, options, expected)


def nih() -> Layout:
    """NIH's Data_Entry_2017.csv: labels by bars, images in twelve folders, a comma too many."""
    classes = ("Cardiomegaly", "Effusion", "Pleural_Thickening")
    names = [f"{i:08d}_000.png" for i in NUMBERS]
    rows = [
        f"{name},{_names(classes, i, '|', 'No Finding')},0,{i + 1},058Y,M,PA,2682,2749,0.143,0.143,"
        for i, name in enumerate(names)
    ]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
    header += "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    options = {
        "filename_column": "Image Index",
        "label_column": "Finding Labels",
        "label_delimiter": "|",
    }
    images = [f"images_{i // HALF + 1:03d}/images/{name}" for i, name in enumerate(names)]
    expected = _counts(classes, "No Finding")
    text = _lines(header, rows)
    return Layout("NIH chest X-rays", "Data_Entry_2017.csv", text, images, options, expected)


def chexpert() -> Layout:
    """CheXpert's train.csv: -1 is uncertain, an empty cell is not mentioned."""
    classes = ("Cardiomegaly", "Edema", "Support Devices")
    images = [f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in NUMBERS]
    rows = []
    for i, name in enumerate(images):
        cells = ["1.0" if value else ("0.0", "-1.0", "")[i % 3] for value in PRESENT[i]]
        rows.append(f"CheXpert-v1.0-small/{name},Female,68,Frontal,AP,{','.join(cells)}")
    text = _lines(f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(classes)}", rows)
    options = {"filename_column": "Path", "ignore_columns": "Sex,Age,Frontal/Lateral,AP/PA"}
    expected = _counts(classes)
    folder = "CheXpert-v1.0-small"
    return Layout("CheXpert", "train.csv", text, images, options, expected, folder)


def planet() -> Layout:
    """Planet's train_v2.csv: labels by spaces, file names without an extension."""
    classes = ("agriculture", "haze", "primary")
    rows = [f"train_{i},{_names(classes, i, ' ', 'clear')}" for i in range(IMAGES)]
    options = {"filename_column": "image_name", "label_delimiter": " "}
    images = [f"train_{i}.jpg" for i in range(IMAGES)]
    text = _lines("image_name,tags", rows)
    return Layout("Planet", "train_v2.csv", text, images, options, _counts(classes, "clear"))


def protein_atlas() -> Layout:
    """The Human Protein Atlas' train.csv: numbers of classes by spaces."""
    classes = ("0", "16", "25")
    names = [f"00070df0-bbc3-11e8-b2bc-{i:012x}" for i in range(IMAGES)]
    rows = [f"{name},{_names(classes, i, ' ', '7')}" for i, name in enumerate(names)]
    options = {"filename_column": "Id", "label_delimiter": " "}
    images = [f"{name}.png" for name in names]
    expected = _counts(classes, "7")
    text = _lines("Id,Target", rows)
    return Layout("Human Protein Atlas", "train.csv", text, images, options, expected)


def plant_pathology() -> Layout:
    """Plant Pathology 2021's train.csv: labels by spaces in a column called labels."""
    classes = ("frog_eye_leaf_spot", "rust", "scab")
    images = [f"80{i:014x}.jpg" for i in range(IMAGES)]
    rows = [f"{name},{_names(classes, i, ' ', 'healthy')}" for i, name in enumerate(images)]
    options = {"filename_column": "image", "label_delimiter": " "}
    text = _lines("image,labels", rows)
    expected = _counts(classes, "healthy")
    return Layout("Plant Pathology 2021", "train.csv", text, images, options, expected)


def movie_genres() -> Layout:
    """Movie posters' train.csv: a list of genres and a column for each."""
    classes = ("Action", "Comedy", "Drama")
    rows = []
    for i in range(IMAGES):
        names = [name for name, value in zip(classes, PRESENT[i], strict=True) if value]
        cells = ",".join(str(int(value)) for value in PRESENT[i])
        rows.append(f'tt{i:07d},"{names!r}",{cells}')
    options = {"filename_column": "Id", "ignore_columns": "Genre"}
    images = [f"tt{i:07d}.jpg" for i in range(IMAGES)]
    text = _lines(f"Id,Genre,{','.join(classes)}", rows)
    return Layout("Movie posters", "train.csv", text, images, options, _counts(classes))


def open_images() -> Layout:
    """OpenImages' human-verified image-level labels: a row for each image and label."""
    classes = ("/m/01g317", "/m/04hgtk", "/m/0dzct")
    names = [f"{i:016x}" for i in range(IMAGES)]
    rows = [
        f"{name},verification,{label},{int(value)}"
        for name, row in zip(names, PRESENT, strict=True)
        for label, value in zip(classes, row, strict=True)
    ]
    options = {"filename_column": "ImageID", "label_column": "LabelName"}
    images = [f"{name}.jpg" for name in names]
    file = "train-annotations-human-imagelabels.csv"
    text = _lines("ImageID,Source,LabelName,Confidence", rows)
    return Layout("OpenImages", file, text, images, options, _counts(classes))


def fastai_voc() -> Layout:
    """PASCAL as fastai has it, train.csv: labels by spaces, True for validation."""
    classes = ("car", "horse", "person")
    rows = [f"{JPEGS[i]},{_names(classes, i, ' ')},{i >= HALF}" for i in range(IMAGES)]
    options = {
        "filename_column": "fname",
        "label_delimiter": " ",
        "split_column": "is_valid",
    }
    text = _lines("fname,labels,is_valid", rows)
    expected = _counts(classes)
    return Layout("PASCAL of fastai", "train.csv", text, JPEGS, options, expected)


def coco() -> Layout:
    """COCO's instances_*.json: objects of categories."""
    classes = ("person", "car", "dog")
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 48, "height": 40} for i, name in enumerate(JPEGS)
        ],
        "categories": [{"id": j + 1, "name": name} for j, name in enumerate(classes)],
        "annotations": [
            {"id": 3 * i + j, "image_id": i, "category_id": j + 1, "area": 100.0, "iscrowd": 0}
            | {"bbox": [1, 1, 10, 10]}
            for i in range(IMAGES)
            for j in range(3)
            if PRESENT[i][j]
        ],
    }
    options, expected = {"source": "coco"}, _counts(classes)
    file = "instances_train2017.json"
    return Layout("COCO", file, json.dumps(content), JPEGS, options, expected)


LAYOUTS = tuple(
    make()
    for make in (
        *(celeba, nih, chexpert, planet, protein_atlas),
        *(plant_pathology, movie_genres, open_images, fastai_voc, coco),
    )
)
