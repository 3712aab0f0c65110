"""mlcls_jax: fine-tune ImageNet-pretrained EfficientNets for multi-label image classification."""

__version__ = "0.1.0"
