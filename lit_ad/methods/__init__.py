from lit_ad.methods.l2bt import L2BT
from lit_ad.methods.mkd import MKD
from lit_ad.methods.stfpm import STFPM
from lit_ad.methods.transformaly import Transformaly

__all__ = ["L2BT", "MKD", "STFPM", "Transformaly"]
