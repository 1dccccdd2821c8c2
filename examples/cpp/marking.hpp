// Which pixels of a map are anomalous.
#pragma once

#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <optional>

namespace lit_ad {

// The steps from marked pixels to the outline of a defect: see lit_ad/detector/clean_up.py.
struct CleanUp {
  double low;   // marked regions grow to all connected pixels above this value of the map
  double base;  // the value of the map from which heights are measured
  int reach;    // a pixel less than half as high as the highest pixel within this distance is dropped; 0: none is
  int closing;  // gaps of up to twice this many pixels are closed
  int holes;    // holes of up to this many pixels are filled
  int area;     // regions of fewer pixels are dropped
};

// Marks pixels above `threshold` in 8-connected regions of at least `area` pixels, then applies the clean-up, if any.
struct Marking {
  double threshold;
  int area;
  std::optional<CleanUp> clean_up;

  static Marking from_json(const nlohmann::json& values);

  // A map, CV_32F of the image's size -> its anomalous pixels, CV_8U of 0 and 255. Only pixels of `inside` count; if it
  // is empty, all pixels count.
  cv::Mat operator()(const cv::Mat& map, const cv::Mat& inside) const;
};

}  // namespace lit_ad
