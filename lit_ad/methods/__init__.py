from lit_ad.methods.dcam import DCAM
from lit_ad.methods.destseg import DeSTSeg
from lit_ad.methods.dinomaly import Dinomaly
from lit_ad.methods.dskd import DSKD
from lit_ad.methods.efficient_ad import EfficientAD
from lit_ad.methods.foundad import FoundAD
from lit_ad.methods.inp_former import INPFormer
from lit_ad.methods.l2bt import L2BT
from lit_ad.methods.mixed_teacher import MixedTeacher
from lit_ad.methods.mkd import MKD
from lit_ad.methods.recontrast import ReContrast
from lit_ad.methods.reverse_distillation import ReverseDistillation
from lit_ad.methods.stfpm import STFPM
from lit_ad.methods.transformaly import Transformaly

__all__ = [
    "DCAM",
    "DSKD",
    "L2BT",
    "MKD",
    "STFPM",
    "DeSTSeg",
    "Dinomaly",
    "EfficientAD",
    "FoundAD",
    "INPFormer",
    "MixedTeacher",
    "ReContrast",
    "ReverseDistillation",
    "Transformaly",
]
