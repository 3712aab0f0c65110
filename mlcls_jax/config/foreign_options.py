"""Options of Keras scripts, timm and other trainers, and what to write here in their place."""

import difflib
import re

from mlcls_jax.config.named import config_names, short_name
from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.system.invocation import command

_PHASE = "--config.phases[1]"  # fine-tuning, in the default phases
_RUN = "RUN is the folder of a run"

# Options of others; what to write, where {} is the value; and the value if none was given.
_WRITE = (
    ("lr learning_rate lr0 base_lr max_lr blr alpha_lr lrate", "--lr {}", "3e-4"),
    ("epochs epoch num_epochs n_epochs nb_epochs max_epochs num_train_epochs", "--epochs {}", "10"),
    ("batch bs b train_batch_size per_device_train_batch_size", "--batch-size {}", "32"),
    ("labels label_file labels_csv train_csv annotations csv_file csv_path", "--csv {}", "my.csv"),
    (
        "image_dir images_dir img_dir image_folder image_path image_root train_dir",
        "--images {}",
        "photos",
    ),
    (
        "data_dir data_path dataset data root dataset_dir train_data directory",
        "--csv labels.csv --images {}",
        "photos",
    ),
    (
        "output output_dir out o save_dir log_dir logdir experiment name project run_dir "
        "checkpoint_dir results_dir ckpt_dir run",
        "--workdir {}",
        "runs/mine",
    ),
    (
        "img_size image_size input_size size imgsz img resolution input_shape crop_size",
        "--config.model.image_size={}",
        "224",
    ),
    ("in_chans in_channels input_channels num_channels", "--config.model.in_channels={}", "1"),
    ("workers num_workers n_workers j threads", "--config.data.threads={}", "4"),
    (
        "initial_checkpoint load_weights pretrained_weights model_path model_weights",
        "--config.model.weights={}",
        "imagenet",
    ),
    ("opt optim optimiser", f"'{_PHASE}.optimizer={{}}'", "adamw"),
    (
        "weight_decay wd decay",
        f"'{_PHASE}.groups[0].weight_decay={{0}}' '{_PHASE}.groups[1].weight_decay={{0}}'",
        "0.01",
    ),
    ("warmup_epochs", f"'{_PHASE}.warmup={{}} epochs'", "1"),
    ("warmup_steps", f"'{_PHASE}.warmup={{}} steps'", "100"),
    ("steps max_steps num_steps iterations", f"'{_PHASE}.duration={{}} steps'", "1000"),
    ("sched scheduler lr_scheduler lr_schedule", f"'{_PHASE}.schedule={{}}'", "cosine"),
    ("clip_grad grad_clip max_grad_norm gradient_clip_val", f"'{_PHASE}.clip_norm={{}}'", "1.0"),
    ("model_ema ema_decay", f"'{_PHASE}.ema={{}}'", "0.999"),
    (
        "grad_accum grad_accum_steps accumulation_steps gradient_accumulation_steps",
        f"'{_PHASE}.accumulate={{}}'",
        "4",
    ),
    ("early_stopping early_stop early_stopping_patience", f"'{_PHASE}.patience={{}}'", "5"),
    (
        "val_split validation_split valid_split val_size val_ratio test_size",
        "--config.data.val_fraction={}",
        "0.2",
    ),
    ("loss loss_fn criterion loss_function", "--config.loss.name={}", "asl"),
    ("smoothing label_smooth", "--config.loss.label_smoothing={}", "0.1"),
    ("class_weight class_weights balanced", "--config.loss.pos_weight=auto", ""),
    (
        "oversample oversampling weighted_sampler balanced_sampler class_balanced repeat_factor "
        "repeat_factor_sampling",
        "--config.data.oversample=sqrt",
        "",
    ),
    ("drop dropout_rate", "--config.model.dropout={}", "0.2"),
    (
        "drop_path_rate drop_connect drop_connect_rate stochastic_depth",
        "--config.model.drop_path={}",
        "0.2",
    ),
    (
        "aa auto_augment randaugment randaug rand_aug augment",
        "--config.augment.rand_augment=2",
        "",
    ),
    ("mixup_alpha", "--config.augment.mixup={}", "0.2"),
    ("cutmix_alpha", "--config.augment.cutmix={}", "1.0"),
    ("flip hflip horizontal_flip random_flip fliplr", "--config.augment.symmetry=h", ""),
    ("vflip vertical_flip flipud", "--config.augment.symmetry=hv", ""),
    (
        "letterbox keep_aspect_ratio pad_to_square",
        "--config.augment.train_resize=letterbox --config.augment.eval_resize=letterbox",
        "",
    ),
    ("reprob random_erasing random_erase", "--config.augment.erase={}", "0.25"),
    (
        "color_jitter colour_jitter jitter",
        "--config.augment.brightness={0} --config.augment.contrast={0}",
        "0.4",
    ),
    ("log_interval print_freq log_freq log_steps", "--config.log_every={}", "20"),
    ("random_state random_seed manual_seed", "--config.seed={}", "0"),
    ("max_time time time_limit", "--minutes {}", "10"),
    ("check sanity_check validate_only debug", "--dry-run", ""),
)

_EXPLAIN = {
    "num_classes nb_classes n_classes classes class_num": "leave it out: the classes are the "
    "columns of your CSV",
    "pretrained imagenet": "leave it out: training starts from ImageNet weights; "
    "--config.model.weights= starts from random ones",
    "resume resume_path continue restore load load_checkpoint checkpoint ckpt auto_resume "
    "fine_tune_from finetune_from": "--workdir RUN continues a run, --resume-from RUN starts a new "
    f"one from its weights ({_RUN})",
    "device devices gpu gpus cuda cpu tpu accelerator no_cuda num_gpus": "leave it out: all GPUs "
    "or TPUs of the machine are used; JAX_PLATFORMS=cpu before the command keeps it on the CPU",
    "amp fp16 bf16 mixed_precision precision half fp32 dtype": "leave it out: GPUs and TPUs "
    "compute in bfloat16, a CPU in float32; --config.model.compute_dtype=float32 or bfloat16 "
    "changes that",
    "metric metrics eval_metric monitor save_best save_best_only": "leave it out: every evaluation "
    "has mAP, AUROC, CF1 and the loss, and the checkpoint with the best val mAP is kept; "
    "--config.evaluation.best=AUROC, CF1 or loss takes another metric",
    "freeze freeze_backbone freeze_base feature_extract linear_probe": f"'{_PHASE}.duration=0 "
    "steps' trains only the head",
    "eval evaluate validate test_only eval_only test": f"{command('evaluate')} --workdir RUN "
    f"does that ({_RUN})",
    "predict inference infer": f"{command('predict')} --workdir RUN photos does that ({_RUN})",
    "multi_label multilabel sigmoid": "leave it out: each label is predicted on its own",
    "wandb log_wandb tensorboard mlflow": "leave it out: metrics.jsonl and tensorboard/ in the "
    "workdir have every evaluation",
    "distributed ddp multi_gpu local_rank world_size dist_url": "leave it out on one machine, all "
    "devices of which are used; --coordinator, --processes and --process connect several",
    "verbose v quiet q silent": "leave it out: there is one way of printing",
}


def advice(option: str, value: str) -> str:
    """Returns what to write in place of an option of another trainer; "" if it is not known.

    Args:
        option: its name, with or without dashes.
        value: the value that came with it, "" without one.

    >>> advice("--validation-split", "0.1")
    'write --config.data.val_fraction=0.1'
    """
    name = option.lstrip("-").replace("-", "_").replace(".", "_").lower()
    if name in ("model", "arch", "architecture", "backbone", "net", "network", "model_name"):
        return _model(value)
    for names, template, example in _WRITE:
        if name in names.split():
            return f"write {template.format(_shown(value) or example)}"
    return next((text for names, text in _EXPLAIN.items() if name in names.split()), "")


def known_options() -> list[str]:
    """Returns the names of all options that have an advice, with underscores."""
    listed = [names for names, _, _ in _WRITE] + list(_EXPLAIN)
    return [name for names in listed for name in names.split()]


def _model(value: str) -> str:
    """Returns which --config has a model: "efficientnet_b0" and "EfficientNetB0" are "b0"."""
    if not value:
        return "write --config b0, or another name of a config"
    short = short_name(value)
    if short in VARIANTS and short in config_names():
        return f"write --config {short}"
    near = difflib.get_close_matches(short, list(VARIANTS), 1)
    hint = f"the nearest is --config {near[0]}; " if near else ""
    return f"{hint}the models are EfficientNets: --config {', '.join(VARIANTS)}"


def _shown(value: str) -> str:
    """Returns a value of the command line as the shell takes it, or "" if it is none."""
    if value.startswith("-"):
        return ""
    return f'"{value}"' if re.search(r"\s", value) else value
