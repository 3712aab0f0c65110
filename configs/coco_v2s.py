"""EfficientNetV2-S with ML-Decoder at 448 px on the 80 classes of COCO 2014.

mlcls-jax train --config coco_v2s --workdir runs/coco_v2s

Data: as in configs/coco_b5.py, 82,081 images for training and 40,137 for validation.

Sources of the numbers; [D] is train.py of github.com/Alibaba-MIIL/ML_Decoder (arXiv:2111.12933),
[P] is K. Prokofiev and V. Sovrasov, arXiv:2209.06585, and its repository:
  ML-Decoder of width 768 with a query for each class, for 80 classes                    [D]
  448 px, batch 56, 40 epochs                                                            [D]
  asymmetric loss, gamma 4 and 0, clip 0.05; Adam, 1e-4, warmup for a fifth of the time  [D]
  weight decay 1e-4 on kernels; EMA of the weights with decay 0.9997 per step            [D]
  no clipping, squashed to a square, cutout of half the side, RandAugment                [D]
    (configs/coco_b5.py lists the small differences from these recipes)
  weights of ImageNet-21k without further training: the tf_efficientnetv2_s_in21k of [P]
  batch statistics train, as in [D]; over all devices, because 7 images per device are few. Drop
    path 0.2 and dropout 0.2 are the network's own (arXiv:2104.00298)
Our choices: flips, and early stopping after ten epochs without improvement.

Hardware, time, metric: not measured. Published: 88.75 mAP in [P], for the same network, size and
head, but with weights of Open Images and another loss. Time ESTIMATED from NVIDIA's measurements
of V2-S in mixed precision (DeepLearningExamples, efficientnet_v2: 950 images/s on one A100 and
6,600 on eight in training at 300 px, 2,062 in evaluation at 384 px), scaled by the number of
pixels and without the decoder:
  8 x A100   82,081 / 2,960 + 40,137 / 12,120 images/s = 31 s per epoch, 21 minutes for 40
  1 x A100   82,081 / 426 + 40,137 / 1,515 images/s = 219 s per epoch, 2.4 hours for 40
"""

from mlcls_jax.config import Augment, Config, Data, Group, Loss, Model, Phase


def get_config() -> Config:
    return Config(
        data=Data(
            csv="coco/train.csv",
            images="coco/train2014",
            val_csv="coco/val.csv",
            val_images="coco/val2014",
            batch_size=56,
            eval_batch_size=256,
        ),
        augment=Augment(rand_augment=2, magnitude=5.0, cutout=0.5),
        loss=Loss(name="asl", gamma_pos=0.0, gamma_neg=4.0, clip=0.05),
        model=Model(
            variant="v2s",
            weights="timm:tf_efficientnetv2_s.in21k",
            image_size=448,
            head="mldecoder",
            sync_batch_norm=True,
        ),
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
