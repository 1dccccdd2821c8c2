// Pillow's Image.resize of 8-bit images, bit for bit, in the order of Pillow 12: first along rows, then along columns.
//
// A network has learnt images that Pillow resized. OpenCV's resize gives other pixels, and thereby other scores.
#pragma once

#include <opencv2/core.hpp>

namespace lit_ad {

enum class Filter { box, bilinear, bicubic };

// (H, W) -> (height, width), antialiased. `image` is CV_8UC1 or CV_8UC3.
cv::Mat resize(const cv::Mat& image, int height, int width, Filter filter);

}  // namespace lit_ad
