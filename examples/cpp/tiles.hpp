// Where the tiles of an image lie, and how their maps become one map again: lit_ad's Grid.
#pragma once

#include <opencv2/core.hpp>
#include <vector>

namespace lit_ad {

class Grid {
 public:
  // The tiles of an image of this size, `tile` pixels a side, which share `overlap` pixels or more.
  Grid(cv::Size image, int tile, int overlap);

  std::size_t size() const { return corners_.size(); }
  cv::Mat cut(const cv::Mat& image, std::size_t number) const;             // (tile, tile); filled up by reflection
  void add(cv::Mat& total, const cv::Mat& map, std::size_t number) const;  // CV_32F (tile, tile), weighted, to `total`
  cv::Mat blank() const;                                                   // what `add` adds to: CV_32F zeros
  cv::Mat finish(cv::Mat total) const;  // what was added -> the image's map, CV_32F (H, W)

 private:
  std::vector<float> ramp(int start, const std::vector<int>& starts) const;
  std::vector<float> coverage(const std::vector<int>& starts, int length) const;

  cv::Size image_;
  int tile_, overlap_;
  std::vector<int> rows_, columns_;
  std::vector<cv::Point> corners_;
};

}  // namespace lit_ad
