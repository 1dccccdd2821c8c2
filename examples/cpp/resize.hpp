// Pillow's Image.resize of 8-bit images, bit for bit.
//
// A network has learnt images that Pillow resized. OpenCV's resize gives other pixels, and thereby other scores.
#pragma once

#include <opencv2/core.hpp>

namespace lit_ad {

enum class Filter { box, bilinear, bicubic };

// (H, W) -> (height, width), antialiased. `image` is CV_8UC1 or CV_8UC3. `pillow` is the version whose pixels are
// wanted: those of 13 and of 12 differ by a grey level here and there, where an image becomes lower more than it
// becomes narrower.
cv::Mat resize(const cv::Mat& image, int height, int width, Filter filter, int pillow);

}  // namespace lit_ad
