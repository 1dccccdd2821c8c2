#include "tiles.hpp"

#include <algorithm>
#include <cmath>

namespace lit_ad {
namespace {

// The first pixel of each tile along one axis. The fewest tiles that cover `length` are spread evenly; neighbours share
// at least `overlap` pixels.
std::vector<int> make_starts(int length, int tile, int overlap) {
  if (length <= tile) return {0};
  const int count = (length - overlap + tile - overlap - 1) / (tile - overlap);
  std::vector<int> starts;
  for (int i = 0; i < count; ++i)
    starts.push_back(static_cast<int>(std::nearbyint(static_cast<double>(i) * (length - tile) / (count - 1))));
  return starts;
}

}  // namespace

Grid::Grid(cv::Size image, int tile, int overlap)
    : image_(image),
      tile_(tile),
      overlap_(overlap),
      rows_(make_starts(image.height, tile, overlap)),
      columns_(make_starts(image.width, tile, overlap)) {
  for (const int top : rows_)
    for (const int left : columns_) corners_.emplace_back(left, top);
}

cv::Mat Grid::cut(const cv::Mat& image, std::size_t number) const {
  const cv::Rect place(corners_[number], cv::Size(tile_, tile_));
  const cv::Mat part = image(place & cv::Rect(0, 0, image.cols, image.rows));
  cv::Mat tile;
  cv::copyMakeBorder(part, tile, 0, tile_ - part.rows, 0, tile_ - part.cols,
                     cv::BORDER_REFLECT_101 | cv::BORDER_ISOLATED);
  return tile;
}

cv::Mat Grid::blank() const {
  return cv::Mat::zeros(std::max(image_.height, tile_), std::max(image_.width, tile_), CV_32F);
}

void Grid::add(cv::Mat& total, const cv::Mat& map, std::size_t number) const {
  const cv::Point corner = corners_[number];
  const std::vector<float> down = ramp(corner.y, rows_), across = ramp(corner.x, columns_);
  for (int row = 0; row < tile_; ++row) {
    const auto* values = map.ptr<float>(row);
    float* sums = total.ptr<float>(corner.y + row) + corner.x;
    for (int column = 0; column < tile_; ++column) sums[column] += values[column] * down[row] * across[column];
  }
}

cv::Mat Grid::finish(cv::Mat total) const {
  const std::vector<float> down = coverage(rows_, total.rows), across = coverage(columns_, total.cols);
  for (int row = 0; row < total.rows; ++row)
    for (int column = 0; column < total.cols; ++column)
      total.at<float>(row, column) = total.at<float>(row, column) / down[row] / across[column];
  return total(cv::Rect(0, 0, image_.width, image_.height));
}

// The weights of a tile along one axis, (tile,). They are 1 inside. Towards a neighbour, they fall smoothly over the
// middle half of the overlap. They are 0 in the outermost quarter, because the network saw its own padding there.
std::vector<float> Grid::ramp(int start, const std::vector<int>& starts) const {
  std::vector<float> weights(static_cast<std::size_t>(tile_), 1.0f);
  for (int i = 0; i < overlap_; ++i) {
    const double position = std::clamp(((i + 0.5) / overlap_ - 0.25) / 0.5, 0.0, 1.0);
    const auto rise = static_cast<float>(0.5 - 0.5 * std::cos(CV_PI * position));
    if (start != starts.front()) weights[i] *= rise;
    if (start != starts.back()) weights[tile_ - 1 - i] *= rise;
  }
  return weights;
}

std::vector<float> Grid::coverage(const std::vector<int>& starts, int length) const {
  std::vector<float> total(static_cast<std::size_t>(length), 0.0f);
  for (const int start : starts) {
    const std::vector<float> weights = ramp(start, starts);
    for (int i = 0; i < tile_; ++i) total[start + i] += weights[i];
  }
  return total;
}

}  // namespace lit_ad
