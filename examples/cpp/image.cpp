#include "image.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string_view>
#include <vector>

namespace lit_ad {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw UserError("cannot read " + path + ": there is no such file, or it may not be read");
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

bool begins_with(const Bytes& bytes, std::string_view start) {
  return bytes.size() >= start.size() &&
         std::equal(start.begin(), start.end(), bytes.begin(),
                    [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
}

// Refuses JPEGs that are cut off or have four inks. OpenCV would read the first without an error, and convert the
// second in another way than Pillow.
void check_jpeg(const Bytes& bytes, const std::string& path) {
  std::size_t at = 2;  // after the marker "start of image"
  while (at + 9 < bytes.size() && bytes[at] == 0xFF) {
    const int marker = bytes[at + 1];
    if (marker == 0xFF) {  // a fill byte
      ++at;
      continue;
    }
    const bool frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (frame && bytes[at + 9] == 4) throw UserError(path + " has the colours of four inks (CMYK): convert it to RGB");
    if (marker == 0xDA) {  // the pixels begin: from here, the bytes 0xFF 0xD9 are only at the end of the image
      constexpr std::uint8_t end[] = {0xFF, 0xD9};
      if (std::search(bytes.begin() + at, bytes.end(), end, end + 2) != bytes.end()) return;
      break;
    }
    at += 2 + 256 * bytes[at + 2] + bytes[at + 3];
  }
  throw UserError("cannot read " + path + ": the file is truncated; replace or remove it");
}

// Numbers of one channel -> (H, W) CV_8UC1: `low` becomes 0 and `high` 255.
cv::Mat to_8_bits(const cv::Mat& values, double low, double high) {
  cv::Mat exact, scaled(values.size(), CV_8UC1);
  values.convertTo(exact, CV_64F);
  const double factor = 255 / (high - low);
  for (int row = 0; row < values.rows; ++row)
    for (int column = 0; column < values.cols; ++column) {
      const double value = (std::clamp(exact.at<double>(row, column), low, high) - low) * factor;
      scaled.at<std::uint8_t>(row, column) = static_cast<std::uint8_t>(std::nearbyint(value));  // half to even
    }
  return scaled;
}

// An image of any depth -> 8 bits, CV_8UC1 or CV_8UC3.
cv::Mat reduce_depth(const cv::Mat& image, const std::string& path, const Window& window) {
  if (window && (image.depth() == CV_8U || image.channels() > 1))
    throw UserError(path +
                    " has values of 8 bits, or colours, but the window of this model is for grey images of more bits");
  if (image.depth() == CV_8U) return image;
  if (image.channels() > 1) {  // keep the upper 8 bits of 16
    if (image.depth() != CV_16U) throw UserError(path + " has colours of more than 16 bits: convert it");
    cv::Mat upper(image.size(), CV_8UC(image.channels()));
    std::transform(image.begin<cv::Vec3w>(), image.end<cv::Vec3w>(), upper.begin<cv::Vec3b>(),
                   [](const cv::Vec3w& deep) {
                     return cv::Vec3b(static_cast<std::uint8_t>(deep[0] >> 8), static_cast<std::uint8_t>(deep[1] >> 8),
                                      static_cast<std::uint8_t>(deep[2] >> 8));
                   });
    return upper;
  }
  if (!cv::checkRange(image)) throw UserError(path + " has values that are not finite");
  if (window) return to_8_bits(image, window->first, window->second);
  const double top = image.depth() >= CV_32F ? 1 : 65535;
  double lowest, highest;
  cv::minMaxLoc(image, &lowest, &highest);
  if (lowest < 0 || highest > top)
    throw UserError(path + " has values outside 0..65535, or of floats outside 0..1: convert it");
  return to_8_bits(image, 0, top);
}

}  // namespace

cv::Mat read_image(const std::string& path, const Window& window) {
  const Bytes bytes = read_bytes(path);
  const bool tiff = begins_with(bytes, "II") || begins_with(bytes, "MM");
  const bool pnm = bytes.size() > 1 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6';
  if (begins_with(bytes, "\xFF\xD8"))
    check_jpeg(bytes, path);
  else if (!(tiff || pnm || begins_with(bytes, "\x89PNG") || begins_with(bytes, "BM")))
    throw UserError("cannot read " + path + ": it is no PNG, JPEG, BMP, TIFF or PNM file; convert it");
  cv::Mat image;
  try {
    if (tiff && cv::imcount(path) > 1)
      throw UserError(path + " has several pages: save one of them as a file of its own");
    // OpenCV multiplies the colours of a TIFF by its transparency. All channels are read to refuse such a file.
    image = cv::imdecode(bytes, tiff ? cv::IMREAD_UNCHANGED : cv::IMREAD_ANYDEPTH | cv::IMREAD_ANYCOLOR);
  } catch (const cv::Exception& error) {
    throw UserError("cannot read " + path + ": " + error.err);
  }
  if (image.empty()) throw UserError("cannot read " + path + ": it is damaged; replace or remove it");
  if (image.channels() == 4) throw UserError(path + " has four channels: save it with three, without transparency");
  image = reduce_depth(image, path, window);
  cv::Mat rgb;
  cv::cvtColor(image, rgb, image.channels() == 1 ? cv::COLOR_GRAY2RGB : cv::COLOR_BGR2RGB);
  return rgb;
}

std::vector<std::uint8_t> decode_base64(const std::string& text) {
  std::vector<std::uint8_t> bytes;
  std::uint32_t bits = 0;
  int have = 0;
  for (const char letter : text) {
    static const std::string LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const auto value = LETTERS.find(letter);
    if (value == std::string::npos) break;  // the "=" at the end
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if ((have += 6) >= 8) bytes.push_back(static_cast<std::uint8_t>(bits >> (have -= 8)));
  }
  return bytes;
}

}  // namespace lit_ad
