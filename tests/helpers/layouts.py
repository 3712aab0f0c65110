"""Small data sets in the layouts of COCO and Pascal VOC."""

import json
from pathlib import Path

from PIL import Image

CATEGORIES = {18: "dog", 1: "person", 17: "cat"}  # unordered ids with gaps, like COCO's
# The category, iscrowd and area of the objects of each image.
OBJECTS = {
    391895: [(1, 0, 5000.0), (18, 0, 120.5), (1, 1, 90000.0)],
    522418: [(17, 1, 70000.0), (18, 0, 5000.0)],
    184613: [],
}


def write_image(path: Path, number: int) -> None:
    """Writes a JPEG that is different for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20 + number, 16), (40 * number, 90, 0)).save(path)


def coco_json() -> dict:
    """Returns the content of a file like instances_train2017.json."""
    annotations = [
        {
            "segmentation": {"counts": [272, 2, 4], "size": [16, 20]} if crowd else [[1.5, 2.0]],
            "area": area,
            "iscrowd": crowd,
            "image_id": image,
            "bbox": [1.0, 2.0, 10.0, 8.0],
            "category_id": category,
            "id": 100 * image + number,
        }
        for image, objects in OBJECTS.items()
        for number, (category, crowd, area) in enumerate(objects)
    ]
    images = [
        {
            "license": 3,
            "file_name": f"{image:012d}.jpg",
            "coco_url": "http://images.cocodataset.org/x.jpg",
            "height": 16,
            "width": 20,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "",
            "id": image,
        }
        for image in OBJECTS
    ]
    categories = [{"supercategory": "x", "id": i, "name": name} for i, name in CATEGORIES.items()]
    info = {"description": "COCO 2017 Dataset", "year": 2017}
    licenses = [{"url": "", "id": 3, "name": ""}]
    return {
        "info": info,
        "licenses": licenses,
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def make_coco(folder: Path, categories: int = 3) -> Path:
    """Writes train2017, val2017 and test2017 with annotations.

    All have the same images, under different names.

    categories: the number of categories; those after the first three are on no image.
    """
    for offset, split in enumerate(("train", "val", "test")):
        content = coco_json()
        unused = range(1000, 1000 + categories - len(CATEGORIES))
        content["categories"] += [{"id": number, "name": f"thing {number}"} for number in unused]
        for number, image in enumerate(content["images"]):
            image["file_name"] = f"{image['id'] + offset:012d}.jpg"
            write_image(folder / f"{split}2017" / image["file_name"], number)
        kind = "instances"
        if split == "test":
            kind = "image_info"
            del content["annotations"]
        file = folder / "annotations" / f"{kind}_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return folder


OBJECT = """
  <object>
    <name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>8</xmin><ymin>12</ymin><xmax>352</xmax><ymax>498</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
  </object>"""
ANNOTATION = """<annotation>
  <folder>VOC2007</folder><filename>{stem}.jpg</filename>
  <size><width>353</width><height>500</height><depth>3</depth></size>{objects}
</annotation>
"""
# The split of each image, and the class and `difficult` of its objects.
VOC = {
    "000005": ("train", [("person", 0), ("person", 1), ("dog", 1)]),
    "000007": ("train", [("car", 0)]),
    "000009": ("val", [("dog", 0), ("car", 0)]),
    "000001": ("test", [("person", 1)]),
    "000002": ("test", []),
}


def make_voc(folder: Path) -> Path:
    """Writes VOCdevkit/VOC2007 in `folder` and returns its path."""
    tree = folder / "VOCdevkit" / "VOC2007"
    lists: dict[str, list[str]] = {}
    for number, (stem, (split, objects)) in enumerate(VOC.items()):
        write_image(tree / "JPEGImages" / f"{stem}.jpg", number)
        written = "".join(OBJECT.format(name=name, difficult=hard) for name, hard in objects)
        annotation = tree / "Annotations" / f"{stem}.xml"
        annotation.parent.mkdir(exist_ok=True)
        annotation.write_text(ANNOTATION.format(stem=stem, objects=written))
        for name in [split, *(["trainval"] if split != "test" else [])]:
            lists.setdefault(name, []).append(stem)
    main = tree / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for name, stems in lists.items():
        (main / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return tree
