// Resizes 8-bit images bit for bit as Pillow 12 does: first along rows, then along columns.
//
// The network was trained on images that Pillow resized. OpenCV's resize gives other pixels, and so other scores.
#pragma once

#include <opencv2/core.hpp>

namespace lit_ad {

enum class Filter { box, bilinear, bicubic };

// (H, W) -> (height, width), antialiased. `image` is CV_8UC1 or CV_8UC3.
cv::Mat resize(const cv::Mat& image, int height, int width, Filter filter);

}  // namespace lit_ad
