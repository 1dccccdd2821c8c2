from lit_ad.teachers.backbone import Backbone, Teacher
from lit_ad.teachers.store import FeatureStore

__all__ = ["Backbone", "FeatureStore", "Teacher"]
