// Cuts an image into tiles, and blends their maps into one map: lit_ad's Grid.
#pragma once

#include <opencv2/core.hpp>
#include <vector>

namespace lit_ad {

class Grid {
 public:
  // Places tiles of `tile` x `tile` pixels on an image, so that neighbours share at least `overlap` pixels.
  Grid(cv::Size image, int tile, int overlap);

  std::size_t size() const { return corners_.size(); }
  cv::Mat cut(const cv::Mat& image, std::size_t number) const;  // -> (tile, tile), padded by reflection
  cv::Mat blank() const;                                        // CV_32F zeros, the first `total` for `add`
  // Adds the map of a tile, CV_32F (tile, tile), to `total`, with the weights of `ramp`.
  void add(cv::Mat& total, const cv::Mat& map, std::size_t number) const;
  cv::Mat finish(cv::Mat total) const;  // the sum of all tiles -> the image's map, CV_32F (H, W)

 private:
  std::vector<float> ramp(int start, const std::vector<int>& starts) const;
  std::vector<float> coverage(const std::vector<int>& starts, int length) const;

  cv::Size image_;
  int tile_, overlap_;
  std::vector<int> rows_, columns_;
  std::vector<cv::Point> corners_;
};

}  // namespace lit_ad
