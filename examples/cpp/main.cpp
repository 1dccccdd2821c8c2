// judge MODEL.onnx IMAGE... prints a line of JSON for each image.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <set>

#include "detector.hpp"

namespace {

using lit_ad::UserError;
using Json = nlohmann::ordered_json;
namespace files = std::filesystem;

constexpr const char* USAGE = R"(judge MODEL.onnx IMAGE... [--category NAME] [--threads N]
                          [--maps FOLDER] [--seen FOLDER]

MODEL.onnx        the file that `lit-ad export RUN --format onnx` wrote
IMAGE             a PNG, JPEG, BMP, TIFF or PNM file
--category NAME   decide by the threshold of this product; without it, by the threshold of all products together
--threads N       threads of the network; without it, one for each core
--maps FOLDER     write the anomaly map of each image to FOLDER/IMAGE.tiff: floats, at the image's size
--seen FOLDER     write the network's input for each image to FOLDER/IMAGE.png

Exit code: 0 if all images are judged; 1 if some are not (their lines have an "error"); 2 if the program cannot start.
)";

struct Options {
  std::string model, category;
  std::vector<std::string> images;
  int threads = 0;
  files::path maps, seen;
};

int parse_number(const std::string& option, const std::string& text) {
  try {
    std::size_t used = 0;
    const int value = std::stoi(text, &used);
    if (used == text.size() && value > 0) return value;
  } catch (const std::exception&) {
  }
  throw UserError(option + " is " + text + ", but it must be a number above 0");
}

Options parse(const std::vector<std::string>& words) {
  Options options;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.rfind("--", 0) != 0) {
      (options.model.empty() ? options.model : options.images.emplace_back()) = word;
      continue;
    }
    if (i + 1 == words.size()) throw UserError(word + " needs a value, or is unknown: judge --help");
    const std::string& value = words[++i];
    if (word == "--category")
      options.category = value;
    else if (word == "--threads")
      options.threads = parse_number(word, value);
    else if (word == "--maps")
      options.maps = files::u8path(value);
    else if (word == "--seen")
      options.seen = files::u8path(value);
    else
      throw UserError(word + " is unknown: judge --help");
  }
  if (options.images.empty()) throw UserError("give an exported file and at least one image: judge --help");
  if (options.maps.empty() && options.seen.empty()) return options;
  std::set<files::path> names;
  for (const std::string& image : options.images)
    if (!names.insert(files::u8path(image).filename()).second)
      throw UserError("two images have the name of " + image + ", so one map or input would overwrite the other");
  for (const files::path& folder : {options.maps, options.seen})
    if (!folder.empty()) files::create_directories(folder);
  return options;
}

void write_image(const files::path& folder, const std::string& image, const char* suffix, const cv::Mat& pixels) {
  const files::path file = folder / files::u8path(image).filename().concat(suffix);
  std::vector<unsigned char> bytes;
  cv::imencode(suffix, pixels, bytes,
               std::string(suffix) == ".tiff" ? std::vector<int>{cv::IMWRITE_TIFF_COMPRESSION, 1} : std::vector<int>{});
  std::ofstream stream(file, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!stream) throw UserError("cannot write " + file.u8string());
}

template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}

Json as_json(const lit_ad::Verdict& verdict, const cv::Size& image) {
  Json regions = Json::array();
  for (const lit_ad::FoundRegion& region : verdict.regions)
    regions.push_back({{"box", {region.box.top, region.box.left, region.box.bottom, region.box.right}},
                       {"area", region.area},
                       {"peak", region.peak}});
  return {{"score", verdict.score},
          {"p_value", or_null(verdict.p_value)},
          {"anomalous", or_null(verdict.anomalous)},
          {"threshold", or_null(verdict.threshold)},
          {"category", verdict.category.empty() ? Json() : Json(verdict.category)},
          {"size", {{"height", image.height}, {"width", image.width}}},
          {"regions", regions}};
}

Json judge(const lit_ad::Detector& detector, const std::string& path, const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto milliseconds = [](Clock::duration time) {
    return std::chrono::duration<double, std::milli>(time).count();
  };
  const auto start = Clock::now();
  const cv::Mat image = lit_ad::read_image(path, detector.view().window);
  const auto read = Clock::now();
  lit_ad::Verdict verdict;
  try {
    verdict = detector(image, options.category);
  } catch (const UserError& error) {
    throw UserError(path + ": " + error.what());
  }
  const auto judged = Clock::now();
  if (!options.maps.empty() && !verdict.map.empty()) write_image(options.maps, path, ".tiff", verdict.map);
  if (!options.seen.empty()) {
    cv::Mat bgr;
    cv::cvtColor(verdict.seen.pixels, bgr, cv::COLOR_RGB2BGR);
    write_image(options.seen, path, ".png", bgr);
  }
  Json line{{"image", path}};
  line.update(as_json(verdict, image.size()));
  line["milliseconds"] = {{"read", milliseconds(read - start)}, {"judge", milliseconds(judged - read)}};
  return line;
}

}  // namespace

int main(int count, char** words) {
  try {
    const std::vector<std::string> given(words + 1, words + count);
    if (std::find(given.begin(), given.end(), "--help") != given.end()) {
      std::cout << USAGE;
      return 0;
    }
    const Options options = parse(given);
    const lit_ad::Detector detector(options.model, options.threads);
    detector.check_category(options.category);
    int code = 0;
    for (const std::string& path : options.images) {
      Json line;
      try {
        line = judge(detector, path, options);
      } catch (const UserError& error) {
        line = {{"image", path}, {"error", error.what()}};
        code = 1;
      }
      std::cout << line.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    }
    return code;
  } catch (const std::exception& error) {  // print one line instead of a verdict
    std::cerr << "judge: " << error.what() << "\n";
    return 2;
  }
}
