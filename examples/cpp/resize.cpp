#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace lit_ad {
namespace {

// Pillow computes with integers: a weight is a multiple of 2^-22, so that sums of 8-bit pixels stay below 2^31.
constexpr int BITS = 32 - 8 - 2;

// Along one axis, the input pixels that make each output pixel, and their weights.
struct Weights {
  std::vector<int> first;             // (outputs,): the first input pixel
  std::vector<int> count;             // (outputs,): the number of input pixels from there
  std::vector<std::int32_t> weights;  // (outputs * room,): those of output i begin at i * room
  int room;                           // the largest possible count
};

double support(Filter filter) { return filter == Filter::box ? 0.5 : filter == Filter::bilinear ? 1.0 : 2.0; }

double weight(Filter filter, double x) {
  if (filter == Filter::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = std::abs(x);
  if (filter == Filter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;  // Keys' cubic convolution
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

Weights make_weights(int inputs, int outputs, Filter filter) {
  const double scale = static_cast<double>(inputs) / outputs;
  const double stretch = std::max(scale, 1.0);  // antialiasing: the filter is wider when the image becomes smaller
  const double reach = support(filter) * stretch, shrink = 1.0 / stretch;
  Weights made{{}, {}, {}, static_cast<int>(std::ceil(reach)) * 2 + 1};
  std::vector<double> exact(static_cast<std::size_t>(made.room));
  for (int output = 0; output < outputs; ++output) {
    const double center = (output + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - reach + 0.5), 0);
    const int count = std::min(static_cast<int>(center + reach + 0.5), inputs) - first;
    double total = 0.0;
    for (int i = 0; i < count; ++i) total += exact[i] = weight(filter, (i + first - center + 0.5) * shrink);
    for (int i = 0; i < made.room; ++i) {
      const double share = i >= count ? 0.0 : total != 0.0 ? exact[i] / total : exact[i];
      made.weights.push_back(static_cast<std::int32_t>(share * (1 << BITS) + (share < 0 ? -0.5 : 0.5)));
    }
    made.first.push_back(first);
    made.count.push_back(count);
  }
  return made;
}

std::uint8_t to_pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> BITS, 0, 255)); }

template <int Channels>
cv::Mat resize_rows(const cv::Mat& image, int width, const Weights& weights) {
  cv::Mat resized(image.rows, width, image.type());
  cv::parallel_for_(cv::Range(0, image.rows), [&](const cv::Range& rows) {
    for (int row = rows.start; row < rows.end; ++row) {
      const auto* source = image.ptr<std::uint8_t>(row);
      auto* target = resized.ptr<std::uint8_t>(row);
      for (int column = 0; column < width; ++column) {
        const std::int32_t* share = &weights.weights[static_cast<std::size_t>(column) * weights.room];
        const std::uint8_t* pixel = source + Channels * weights.first[column];
        std::int32_t sums[Channels];
        std::fill_n(sums, Channels, 1 << (BITS - 1));
        for (int i = 0; i < weights.count[column]; ++i, pixel += Channels)
          for (int channel = 0; channel < Channels; ++channel) sums[channel] += pixel[channel] * share[i];
        for (int channel = 0; channel < Channels; ++channel) *target++ = to_pixel(sums[channel]);
      }
    }
  });
  return resized;
}

cv::Mat resize_columns(const cv::Mat& image, int height, const Weights& weights) {
  cv::Mat resized(height, image.cols, image.type());
  const int length = image.cols * image.channels();
  cv::parallel_for_(cv::Range(0, height), [&](const cv::Range& rows) {
    std::vector<std::int32_t> sums(static_cast<std::size_t>(length));
    for (int row = rows.start; row < rows.end; ++row) {
      std::fill(sums.begin(), sums.end(), 1 << (BITS - 1));
      for (int i = 0; i < weights.count[row]; ++i) {
        const std::int32_t share = weights.weights[static_cast<std::size_t>(row) * weights.room + i];
        const auto* source = image.ptr<std::uint8_t>(weights.first[row] + i);
        for (int at = 0; at < length; ++at) sums[at] += source[at] * share;
      }
      std::transform(sums.begin(), sums.end(), resized.ptr<std::uint8_t>(row), to_pixel);
    }
  });
  return resized;
}

}  // namespace

// One axis after the other, with pixels rounded to 8 bits in between. So the order of the axes changes the result; it
// is the order of lit_ad/image/resize.py.
cv::Mat resize(const cv::Mat& image, int height, int width, Filter filter) {
  CV_Assert(image.type() == CV_8UC1 || image.type() == CV_8UC3);
  const auto along_rows = [&](const cv::Mat& from) {
    if (width == from.cols) return from;
    const Weights weights = make_weights(from.cols, width, filter);
    return from.channels() == 3 ? resize_rows<3>(from, width, weights) : resize_rows<1>(from, width, weights);
  };
  const auto along_columns = [&](const cv::Mat& from) {
    return height == from.rows ? from : resize_columns(from, height, make_weights(from.rows, height, filter));
  };
  return along_columns(along_rows(image));
}

}  // namespace lit_ad
