from lit_ad.teachers.backbone import Backbone, Teacher

__all__ = ["Backbone", "Teacher"]
