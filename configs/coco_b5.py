"""EfficientNet-B5 at 456 px on the 80 classes of COCO 2014, by the recipe of the asymmetric loss.

mlcls-jax train --config coco_b5 --workdir runs/coco_b5

Data: the 82,081 images of train2014 and the 40,137 of val2014 that contain an object (of 82,783
and 40,504; the recipe's code skips the others too), as coco/train.csv and coco/val.csv with a
column for each of the 80 classes, next to the unpacked coco/train2014/ and coco/val2014/.

Sources of the numbers; [A] is train.py of github.com/Alibaba-MIIL/ASL (arXiv:2009.14119):
  asymmetric loss, gamma 4 and 0, clip 0.05, no gradient through the focus   [A]
  Adam, 1e-4, warmup for a fifth of the time, then cosine decay              [A]; the warmup is a
    cosine there (OneCycleLR) and linear here
  40 epochs: [A] plans 80 and stops after 40; train.py of ML_Decoder plans 40
  batch 128, EMA of the weights with decay 0.9997 per step                   [A]
  weight decay 1e-4 on kernels, decoupled. It is "true wd" in [A], but there it is added to the
    gradient of a summed loss, so it has almost no effect
  no gradient clipping; squashed to a square; cutout of half the side        [A]
  two operations of RandAugment. [A] uses the package randaugment, which applies each of them with
    probability 1/2 and a magnitude drawn from 1 to 9; here the magnitude is their mean, 5
  batch statistics train, as in [A]; over all devices, because 16 images per device are few. Drop
    path 0.2 and dropout 0.4 are the network's own (arXiv:1905.11946)
Our choices: Noisy Student weights (86.1 % top-1; "imagenet" has 83.6), flips, and early stopping
after ten epochs without improvement.

Hardware, time, metric: not measured. Published for the recipe, with TResNet-L at 448 px: 86.6 mAP
(MODEL_ZOO.md of [A]). Time ESTIMATED by scripts/scaling/scaling_model.py, accurate to a third:
  8 x A100   82,081 / 1,403 + 40,137 / 6,421 images/s = 65 s per epoch, 43 minutes for 40
  1 x A100   82,081 / 175 + 40,137 / 803 images/s = 520 s per epoch, 5.8 hours for 40
Memory by docs/performance.md: 128 images take 60 GB, so use one GPU of 80 GB, two of 40 GB, or one
of 40 GB with --config.phases[0].accumulate=2.
"""

from mlcls_jax.config import Augment, Config, Data, Group, Loss, Model, Phase


def get_config() -> Config:
    return Config(
        data=Data(
            csv="coco/train.csv",
            images="coco/train2014",
            val_csv="coco/val.csv",
            val_images="coco/val2014",
            batch_size=128,
            eval_batch_size=256,
        ),
        augment=Augment(rand_augment=2, magnitude=5.0, cutout=0.5),
        loss=Loss(name="asl", gamma_pos=0.0, gamma_neg=4.0, clip=0.05),
        model=Model(variant="b5", weights="noisy-student", sync_batch_norm=True),
        phases=[
            Phase(
                "all",
                "40 epochs",
                [Group(".*", 1e-4, 1e-4)],
                warmup="8 epochs",
                clip_norm=0.0,
                batch_norm="train",
                ema=0.9997,
                patience=10,
            )
        ],
    )
