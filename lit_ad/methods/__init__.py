from lit_ad.methods.stfpm import STFPM

__all__ = ["STFPM"]
