#include "view.hpp"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <utility>
#include <vector>

namespace lit_ad {
namespace {

constexpr int SMALLEST_SIDE = 8;              // pixels; images with a shorter side are refused
const cv::Scalar FILL(124, 116, 104);         // red, green, blue of pixels that do not count in a region of interest
constexpr const char* MASK_BEGINS = "mask:";  // a region of interest as text: mask:HEIGHT,WIDTH,BASE64

std::string format_size(cv::Size size) {
  return std::to_string(size.height) + "x" + std::to_string(size.width) + " (height x width)";
}

// Reads the mask of a region of interest: its bits row by row, deflated, in base64 -> CV_8UC1 of 0 and 255.
cv::Mat read_mask(const std::string& text) {
  std::istringstream stream(text.substr(std::string(MASK_BEGINS).size()));
  int height = 0, width = 0;
  char comma;
  std::string code;
  stream >> height >> comma >> width >> comma >> code;
  if (!stream || height < 1 || width < 1) throw UserError("the model's view.roi cannot be read: " + text.substr(0, 40));
  const std::vector<std::uint8_t> deflated = decode_base64(code);
  uLongf length = (static_cast<uLongf>(height) * width + 7) / 8;
  std::vector<std::uint8_t> bits(length);
  if (uncompress(bits.data(), &length, deflated.data(), deflated.size()) != Z_OK || length != bits.size())
    throw UserError("the model's view.roi is damaged");
  cv::Mat mask(height, width, CV_8UC1);
  for (std::size_t pixel = 0; pixel < mask.total(); ++pixel)
    mask.data[pixel] = bits[pixel / 8] >> (7 - pixel % 8) & 1 ? 255 : 0;
  return mask;
}

Region make_region(const nlohmann::json& roi) {
  if (roi.is_array()) return {{roi[0], roi[1], roi[2], roi[3]}, {}, 0, 0};
  const cv::Mat mask = read_mask(roi);
  cv::Mat rows, columns;
  cv::reduce(mask, rows, 1, cv::REDUCE_MAX);
  cv::reduce(mask, columns, 0, cv::REDUCE_MAX);
  const auto first_and_end = [](const cv::Mat& line) {
    int first = 0, end = static_cast<int>(line.total());
    while (first < end && !line.data[first]) ++first;
    while (end > first && !line.data[end - 1]) --end;
    return std::make_pair(first, end);
  };
  const auto [top, bottom] = first_and_end(rows);
  const auto [left, right] = first_and_end(columns);
  const Box box{top, left, bottom, right};
  const cv::Mat inside = mask(box.rect()).clone();
  const bool all = cv::countNonZero(inside) == static_cast<int>(inside.total());
  return {box, all ? cv::Mat() : inside, mask.rows, mask.cols};
}

// For each of `outputs` pixels along an axis: the input pixel before its position, and the distance from it (0 to 1).
std::vector<std::pair<int, float>> positions(int inputs, int outputs) {
  std::vector<std::pair<int, float>> pairs;
  for (int output = 0; output < outputs; ++output) {
    const double position = (output + 0.5) * (static_cast<double>(inputs) / outputs) - 0.5;
    const double inside = std::clamp(position, 0.0, inputs - 1.0);
    pairs.emplace_back(static_cast<int>(inside), static_cast<float>(inside - static_cast<int>(inside)));
  }
  return pairs;
}

// Resizes a map, CV_32F, as torch's interpolate with mode "bilinear" and align_corners=False: without antialiasing.
cv::Mat bilinear(const cv::Mat& map, cv::Size size) {
  cv::Mat higher = map, wider;
  if (size.height != map.rows) {
    higher = cv::Mat(size.height, map.cols, CV_32F);  // new memory, because `higher` shares that of `map`
    const auto rows = positions(map.rows, size.height);
    for (int row = 0; row < size.height; ++row) {
      const auto [low, weight] = rows[row];
      const float *below = map.ptr<float>(low), *above = map.ptr<float>(std::min(low + 1, map.rows - 1));
      float* target = higher.ptr<float>(row);
      for (int column = 0; column < map.cols; ++column)
        target[column] = below[column] + (above[column] - below[column]) * weight;
    }
  }
  if (size.width == map.cols) return higher;
  wider.create(size, CV_32F);
  const auto columns = positions(map.cols, size.width);
  for (int row = 0; row < size.height; ++row) {
    const float* source = higher.ptr<float>(row);
    float* target = wider.ptr<float>(row);
    for (int column = 0; column < size.width; ++column) {
      const auto [low, weight] = columns[column];
      const float below = source[low], above = source[std::min(low + 1, map.cols - 1)];
      target[column] = below + (above - below) * weight;
    }
  }
  return wider;
}

// The value of a key, or `otherwise` if it is null or missing.
int number(const nlohmann::json& view, const char* key, int otherwise) {
  return view.contains(key) && !view[key].is_null() ? view[key].get<int>() : otherwise;
}

}  // namespace

cv::Mat Region::cut(const cv::Mat& image) const {
  const bool fits =
      height ? image.rows == height && image.cols == width : image.rows >= box.bottom && image.cols >= box.right;
  if (!fits)
    throw UserError("the image of " + format_size(image.size()) +
                    " does not fit the model's region of interest, which is for images of " +
                    format_size(height ? cv::Size(width, height) : cv::Size(box.right, box.bottom)));
  cv::Mat boxed = image(box.rect()).clone();
  if (!inside.empty()) boxed.setTo(FILL, inside == 0);
  return boxed;
}

cv::Mat Region::resize_inside(int rows, int columns) const {
  if (inside.empty() || (rows == inside.rows && columns == inside.cols)) return inside;
  const cv::Mat share = resize(inside, rows, columns, Filter::box);
  double highest;
  cv::minMaxLoc(share, nullptr, &highest);
  return share > (highest > 127 ? 127 : 0);  // where half of a pixel counts; if none has half, where any part counts
}

cv::Mat Region::place(const cv::Mat& map, cv::Size image) const {
  double lowest;
  cv::minMaxLoc(map, &lowest, nullptr, nullptr, nullptr, inside.empty() ? cv::noArray() : inside);
  cv::Mat placed(image, CV_32F, cv::Scalar(lowest));
  map.copyTo(placed(box.rect()), inside.empty() ? cv::noArray() : inside);
  return placed;
}

View::View(const nlohmann::json& view) {
  const nlohmann::json& size = view.at("image_size");
  if (!size.is_null()) {
    height = size.is_array() ? size[0].get<int>() : size.get<int>();
    width = size.is_array() ? size[1].get<int>() : size.get<int>();
  }
  pad = view.at("fit") == "pad";
  filter = view.at("interpolation") == "bicubic" ? Filter::bicubic : Filter::bilinear;
  crop = number(view, "crop", 0);
  tile = number(view, "tile", 0);
  overlap = number(view, "overlap", tile / 4);
  tile_batch = number(view, "tile_batch", 1);
  multiple = tile ? 1 : number(view, "multiple", 1);  // with tiles, the network's input is the tile
  if (!view.at("window").is_null()) window = {view["window"][0].get<double>(), view["window"][1].get<double>()};
  if (!view.at("roi").is_null()) region = make_region(view["roi"]);
}

cv::Size View::content(cv::Size image) const {
  const cv::Size size = region ? cv::Size(region->box.width(), region->box.height()) : image;
  const cv::Size canvas = height ? cv::Size(width, height) : size;
  if (!pad) return canvas;
  const double scale =
      std::min(static_cast<double>(canvas.height) / size.height, static_cast<double>(canvas.width) / size.width);
  const auto scaled = [scale](int side) { return std::max(1, static_cast<int>(std::nearbyint(scale * side))); };
  return {scaled(size.width), scaled(size.height)};
}

Seen View::operator()(const cv::Mat& image) const {
  const cv::Size content = this->content(image.size());
  const cv::Size asked = height ? cv::Size(width, height) : image.size();
  const int least = std::min({SMALLEST_SIDE, asked.height, asked.width});
  if (std::min(image.rows, image.cols) < SMALLEST_SIDE || std::min(content.height, content.width) < least)
    throw UserError("the image of " + format_size(image.size()) + " is too small or too thin to be judged");
  cv::Mat seen = region ? region->cut(image) : image;
  cv::Size canvas = height ? cv::Size(width, height) : seen.size();
  seen = resize(seen, content.height, content.width, filter);
  const auto round_up = [this](int side) { return (side + multiple - 1) / multiple * multiple; };
  canvas = crop ? cv::Size(crop, crop) : cv::Size(round_up(canvas.width), round_up(canvas.height));
  // Where the content is larger than the canvas, its middle is cut out; where it is smaller, its border is reflected.
  // Halves of pixels are rounded down, as in Python.
  const int top = static_cast<int>(std::floor((canvas.height - content.height) / 2.0));
  const int left = static_cast<int>(std::floor((canvas.width - content.width) / 2.0));
  const Box box{top, left, top + content.height, left + content.width};
  const Box shown = visible(box, canvas);
  seen = seen(cv::Rect(shown.left - left, shown.top - top, shown.width(), shown.height()));
  cv::Mat pixels;
  cv::copyMakeBorder(seen, pixels, shown.top, canvas.height - shown.bottom, shown.left, canvas.width - shown.right,
                     cv::BORDER_REFLECT_101 | cv::BORDER_ISOLATED);
  return {pixels, box};
}

cv::Mat View::inside(cv::Size canvas, const Box& box) const {
  const cv::Mat mask = region ? region->resize_inside(box.height(), box.width()) : cv::Mat();
  if (mask.empty()) return mask;
  const Box shown = visible(box, canvas);
  const cv::Mat counted = mask(cv::Rect(shown.left - box.left, shown.top - box.top, shown.width(), shown.height()));
  if (!cv::countNonZero(counted))
    throw UserError("the crop of the model's view contains no pixel of its region of interest");
  return counted;
}

cv::Mat View::original_map(const cv::Mat& map, const Box& box, cv::Size image) const {
  const Box shown = visible(box, map.size());
  const cv::Mat seen = map(shown.rect());
  double lowest;
  cv::minMaxLoc(seen, &lowest);
  cv::Mat content;  // cropped parts, which the network did not see, get the lowest value
  cv::copyMakeBorder(seen, content, shown.top - box.top, box.bottom - shown.bottom, shown.left - box.left,
                     box.right - shown.right, cv::BORDER_CONSTANT | cv::BORDER_ISOLATED, cv::Scalar(lowest));
  if (!region) return bilinear(content, image);
  return region->place(bilinear(content, {region->box.width(), region->box.height()}), image);
}

Box visible(const Box& box, cv::Size canvas) {
  return {std::max(box.top, 0), std::max(box.left, 0), std::min(box.bottom, canvas.height),
          std::min(box.right, canvas.width)};
}

}  // namespace lit_ad
