// Image files -> 8-bit RGB, as lit_ad reads them.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lit_ad {

// An error that the user can mend. The message names the file or the option.
struct UserError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The two values of a grey image with more than 8 bits that become 0 and 255.
using Window = std::optional<std::pair<double, double>>;

// Reads a PNG, JPEG, BMP, TIFF or PNM file -> (H, W) CV_8UC3 in the order red, green, blue, turned upright by its EXIF
// data. Transparency is dropped. Throws UserError.
cv::Mat read_image(const std::string& path, const Window& window);

std::vector<std::uint8_t> decode_base64(const std::string& text);

}  // namespace lit_ad
