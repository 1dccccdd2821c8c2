#include "marking.hpp"

#include <algorithm>
#include <opencv2/imgproc.hpp>
#include <vector>

namespace lit_ad {
namespace {

// Keeps the regions of a mask that have at least `least` pixels.
cv::Mat drop_small(const cv::Mat& mask, int least) {
  cv::Mat labels, stats, centroids, kept = cv::Mat::zeros(mask.size(), CV_8UC1);
  const int count = cv::connectedComponentsWithStats(mask, labels, stats, centroids, 8, CV_32S);
  for (int label = 1; label < count; ++label)
    if (stats.at<int>(label, cv::CC_STAT_AREA) >= least) kept.setTo(255, labels == label);
  return kept;
}

// Keeps the regions of `above` that contain a pixel of `marked`.
cv::Mat grow(const cv::Mat& marked, const cv::Mat& above) {
  cv::Mat labels, kept = cv::Mat::zeros(above.size(), CV_8UC1);
  const int count = cv::connectedComponents(above, labels, 8, CV_32S);
  std::vector<bool> touched(count, false);
  for (int row = 0; row < labels.rows; ++row)
    for (int column = 0; column < labels.cols; ++column)
      if (marked.at<std::uint8_t>(row, column)) touched[labels.at<int>(row, column)] = true;
  for (int row = 0; row < labels.rows; ++row)
    for (int column = 0; column < labels.cols; ++column)
      if (const int label = labels.at<int>(row, column); label > 0 && touched[label])
        kept.at<std::uint8_t>(row, column) = 255;
  return kept;
}

// Keeps the pixels of a mask whose height over `base` is more than half of the greatest height within `reach`.
cv::Mat drop_halos(const cv::Mat& map, const cv::Mat& mask, double base, int reach) {
  if (reach == 0) return mask;
  cv::Mat heights = cv::Mat::zeros(map.size(), CV_32FC1), highest;
  const float from = static_cast<float>(base);
  for (int row = 0; row < map.rows; ++row)
    for (int column = 0; column < map.cols; ++column)
      if (mask.at<std::uint8_t>(row, column)) heights.at<float>(row, column) = map.at<float>(row, column) - from;
  cv::dilate(heights, highest, cv::getStructuringElement(cv::MORPH_RECT, cv::Size(2 * reach + 1, 2 * reach + 1)));
  return (heights > highest * 0.5) & mask;
}

// Closes the gaps of a mask, by a square. Pixels outside the image count as nominal.
cv::Mat close_gaps(const cv::Mat& mask, int radius) {
  if (radius == 0) return mask;
  cv::Mat padded, closed;
  cv::copyMakeBorder(mask, padded, 2 * radius, 2 * radius, 2 * radius, 2 * radius, cv::BORDER_CONSTANT, cv::Scalar(0));
  const cv::Mat square = cv::getStructuringElement(cv::MORPH_RECT, cv::Size(2 * radius + 1, 2 * radius + 1));
  cv::morphologyEx(padded, closed, cv::MORPH_CLOSE, square);
  return closed(cv::Rect(2 * radius, 2 * radius, mask.cols, mask.rows)).clone();
}

// Fills the holes of a mask that have at most `most` pixels. A hole is 4-connected background that touches no side of
// the image.
cv::Mat fill_holes(const cv::Mat& mask, int most) {
  cv::Mat labels, stats, centroids, filled = mask.clone();
  const int count = cv::connectedComponentsWithStats(mask == 0, labels, stats, centroids, 4, CV_32S);
  for (int label = 1; label < count; ++label) {
    const int* part = stats.ptr<int>(label);
    const int left = part[cv::CC_STAT_LEFT], top = part[cv::CC_STAT_TOP];
    const bool at_side = left == 0 || top == 0 || left + part[cv::CC_STAT_WIDTH] == mask.cols ||
                         top + part[cv::CC_STAT_HEIGHT] == mask.rows;
    if (!at_side && part[cv::CC_STAT_AREA] <= most) filled.setTo(255, labels == label);
  }
  return filled;
}

}  // namespace

Marking Marking::from_json(const nlohmann::json& values) {
  Marking marking{values.at("threshold"), values.at("area"), std::nullopt};
  if (const nlohmann::json& steps = values.at("clean_up"); !steps.is_null())
    marking.clean_up = CleanUp{steps.at("low"),     steps.at("base"),  steps.at("reach"),
                               steps.at("closing"), steps.at("holes"), steps.at("area")};
  return marking;
}

cv::Mat Marking::operator()(const cv::Mat& map, const cv::Mat& inside) const {
  cv::Mat marked = map > threshold;
  if (!inside.empty()) marked &= inside;
  if (area > 1) marked = drop_small(marked, area);
  if (!clean_up || cv::countNonZero(marked) == 0) return marked;
  cv::Mat above = (map > clean_up->low) | marked;
  if (!inside.empty()) above &= inside;
  const cv::Mat sharp = drop_halos(map, grow(marked, above), clean_up->base, clean_up->reach);
  cv::Mat mask = fill_holes(close_gaps(sharp, clean_up->closing), clean_up->holes);
  if (!inside.empty()) mask &= inside;
  return drop_small(mask, clean_up->area);
}

}  // namespace lit_ad
