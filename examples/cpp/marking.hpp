// Which pixels of a map are anomalous.
#pragma once

#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <optional>

namespace lit_ad {

// From marked pixels to the outline of a defect; see lit_ad/detector/clean_up.py.
struct CleanUp {
  double low;   // marked regions grow to the pixels above it that are connected to them
  double base;  // that heights are measured from
  int reach;    // what is less than half as high as the highest pixel so near is dropped; 0: nothing
  int closing;  // gaps of up to twice as many pixels are closed
  int holes;    // holes of at most so many pixels are filled
  int area;     // regions of fewer pixels are dropped
};

// Pixels above `threshold`, in regions of at least `area` (8-connected), cleaned up if there is a clean-up.
struct Marking {
  double threshold;
  int area;
  std::optional<CleanUp> clean_up;

  static Marking from_json(const nlohmann::json& values);

  // The anomalous pixels of a map, CV_32F of the image's size: CV_8U of 0 and 255. `inside`: what counts; empty: all.
  cv::Mat operator()(const cv::Mat& map, const cv::Mat& inside) const;
};

}  // namespace lit_ad
