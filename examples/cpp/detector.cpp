#include "detector.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <sstream>

#include "tiles.hpp"

namespace lit_ad {
namespace {

constexpr const char *KEY = "lit_ad", *CHECK_KEY = "lit_ad_check";  // keys of the metadata: the card, the self-check
constexpr double REFUSED = 5;  // the file is refused beyond this many times its tolerance; above 1, there is a warning

// Reads the metadata that the export wrote under a key, as JSON; null if the key is missing.
nlohmann::json read_metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
  return text ? nlohmann::json::parse(text.get()) : nlohmann::json();
}

// A PNG in base64 -> RGB, or grey of 16 bits.
cv::Mat decode_png(const std::string& text) {
  const cv::Mat image = cv::imdecode(decode_base64(text), cv::IMREAD_ANYDEPTH | cv::IMREAD_ANYCOLOR);
  if (image.empty()) throw UserError("an image of the file's self-check is damaged: export the model again");
  cv::Mat rgb = image;
  if (image.channels() == 3) cv::cvtColor(image, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

// The value of a category; if it has none, the value of all categories together. Null if there is none.
template <typename Value>
const Value* find(const std::map<std::string, Value>& values, const std::string& category) {
  auto found = values.find(category);
  if (found == values.end()) found = values.find("");
  return found == values.end() ? nullptr : &found->second;
}

}  // namespace

Detector::Detector(const std::string& file, int threads) : environment_(ORT_LOGGING_LEVEL_ERROR, KEY) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.AddConfigEntry("session.intra_op.allow_spinning", "0");  // waiting threads do not use a core
  try {
    session_ = std::make_unique<Ort::Session>(environment_, std::filesystem::u8path(file).c_str(), options);
    const nlohmann::json card = read_metadata(*session_, KEY);
    if (card.is_null()) throw UserError(file + " was not exported by lit_ad: its metadata have no view");
    view_.emplace(card.at("view"));
    map_scored_ = card.at("map_scored");
    top_ = card.at("top");
    has_map_ = session_->GetOutputCount() > 1;
    check(read_metadata(*session_, CHECK_KEY));
    if (card.at("decision").is_null()) return;
    for (const auto& [category, threshold] : card.at("threshold").items()) thresholds_[category] = threshold;
    for (const auto& [category, marking] : card.at("marking").items())
      if (!marking.is_null()) markings_[category] = Marking::from_json(marking);
    std::vector<double>& all = held_out_[""];
    for (const auto& [category, scores] : card["decision"]["scores"].items()) {
      const auto held = scores.get<std::vector<double>>();
      all.insert(all.end(), held.begin(), held.end());
      if (!category.empty()) held_out_[category] = held;
    }
  } catch (const Ort::Exception& error) {
    throw UserError(file + " cannot be read by ONNX Runtime: " + error.what());
  } catch (const nlohmann::json::exception& error) {
    throw UserError(file + " was exported by a version of lit_ad that this program does not know: " + error.what());
  }
}

Verdict Detector::operator()(const cv::Mat& image, const std::string& category) const {
  check_category(category);
  Verdict verdict{};
  verdict.seen = (*view_)(image);
  const Judgement judgement = view_->tile ? judge_tiles(verdict.seen) : judge(verdict.seen);
  if (!std::isfinite(judgement.score) || (!judgement.map.empty() && !cv::checkRange(judgement.map)))
    throw UserError("the score or the map is not finite: there is no verdict");
  verdict.score = judgement.score;
  verdict.category = held_out_.count(category) ? category : "";
  if (!judgement.map.empty()) verdict.map = view_->original_map(judgement.map, verdict.seen.box, image.size());
  decide(verdict, image.size());
  return verdict;
}

void Detector::check_category(const std::string& category) const {
  if (category.empty() || held_out_.empty() || held_out_.count(category)) return;
  std::string known;
  for (const auto& [name, scores] : held_out_)
    if (!name.empty()) known += (known.empty() ? "has " : ", ") + name;
  throw UserError("category " + category + " is not one of the detector's: it " +
                  (known.empty() ? "has none: leave it out" : known));
}

// n images (H, W) RGB -> scores and maps. The network takes (n, 3, H, W).
Detector::Output Detector::run(const std::vector<cv::Mat>& images) const {
  const int height = images[0].rows, width = images[0].cols;
  const std::size_t plane = static_cast<std::size_t>(height) * width;
  std::vector<std::uint8_t> pixels(images.size() * 3 * plane);
  std::uint8_t* to = pixels.data();
  for (const cv::Mat& image : images) {
    std::array<cv::Mat, 3> planes;
    for (cv::Mat& channel : planes) {
      channel = cv::Mat(height, width, CV_8UC1, to);
      to += plane;
    }
    cv::split(image, planes.data());
  }
  const std::array<std::int64_t, 4> shape{static_cast<std::int64_t>(images.size()), 3, height, width};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto input =
      Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size());
  const char *inputs[] = {"pixels"}, *outputs[] = {"score", "anomaly_map"};
  std::vector<Ort::Value> results;
  try {
    results = session_->Run(Ort::RunOptions{}, inputs, &input, 1, outputs, has_map_ ? 2 : 1);
  } catch (const Ort::Exception& error) {
    throw UserError(std::string("ONNX Runtime cannot run the model: ") + error.what());
  }
  Output output;
  const float* scores = results[0].GetTensorData<float>();
  output.scores.assign(scores, scores + images.size());
  for (std::size_t i = 0; has_map_ && i < images.size(); ++i)
    output.maps.push_back(cv::Mat(height, width, CV_32F, results[1].GetTensorMutableData<float>() + i * plane).clone());
  return output;
}

Detector::Judgement Detector::judge(const Seen& seen) const {
  Output output = run({seen.pixels});
  if (!has_map_) return {output.scores[0], {}};
  return {map_scored_ ? score_map(output.maps[0], seen.box) : output.scores[0], output.maps[0]};
}

// Blends the maps of the tiles into one map, and scores that. If the network gives the scores, the image's score is the
// maximum over the tiles.
Detector::Judgement Detector::judge_tiles(const Seen& seen) const {
  const cv::Mat content = seen.pixels(seen.box.rect());
  const Grid grid(content.size(), view_->tile, view_->overlap);
  cv::Mat total = grid.blank();
  float highest = -std::numeric_limits<float>::infinity();
  for (std::size_t start = 0; start < grid.size(); start += view_->tile_batch) {
    std::vector<cv::Mat> tiles;
    for (std::size_t i = start; i < std::min(start + view_->tile_batch, grid.size()); ++i)
      tiles.push_back(grid.cut(content, i));
    const Output output = run(tiles);
    for (const float score : output.scores) highest = std::isnan(score) ? score : std::max(score, highest);
    for (std::size_t i = 0; i < output.maps.size(); ++i) grid.add(total, output.maps[i], start + i);
  }
  if (!has_map_) return {highest, {}};
  cv::Mat map = cv::Mat::zeros(seen.pixels.size(), CV_32F);  // around the content, the map is 0
  grid.finish(total).copyTo(map(seen.box.rect()));
  return {map_scored_ ? score_map(map, seen.box) : highest, map};
}

double Detector::score_map(const cv::Mat& map, const Box& box) const {
  return top_mean(map(visible(box, map.size()).rect()), view_->inside(map.size(), box));
}

// The mean of the highest pixels of a map, among those that count, or their maximum. NaN if one of them is not finite.
double Detector::top_mean(const cv::Mat& map, const cv::Mat& inside) const {
  std::vector<float> values;
  for (int row = 0; row < map.rows; ++row)
    for (int column = 0; column < map.cols; ++column)
      if (inside.empty() || inside.at<std::uint8_t>(row, column)) values.push_back(map.at<float>(row, column));
  if (!cv::checkRange(values)) return std::numeric_limits<double>::quiet_NaN();
  const auto count = std::max<std::size_t>(static_cast<std::size_t>(top_ * static_cast<double>(values.size())), 1);
  const auto highest = values.end() - static_cast<std::ptrdiff_t>(count);
  std::nth_element(values.begin(), highest, values.end());
  return std::accumulate(highest, values.end(), 0.0) / static_cast<double>(count);
}

// Judges the images that the file carries, and compares scores and maps with those of the checkpoint: another runtime,
// driver or device may give wrong scores without an error. A difference of scores is relative to the score, or to the
// mean size of all scores if that is larger; a difference of maps is relative to the map's largest value.
void Detector::check(const nlohmann::json& carried) const {
  if (carried.is_null()) return;  // the file carries no images, for example because the data set was gone at the export
  const auto scores = carried.at("scores").get<std::vector<double>>();
  const double mean_size = std::accumulate(scores.begin(), scores.end(), 0.0,
                                       [](double sum, double score) { return sum + std::abs(score); }) /
                       static_cast<double>(scores.size());
  double largest = 0;
  const auto compare = [&](double value, double expected, double scale) {
    const double difference = std::abs(value - expected) / std::max(scale, 1e-12);
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  };
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const cv::Mat image = decode_png(carried.at("images")[i]);
    const Output output =
        run({resize(image, carried.at("size")[0], carried.at("size")[1], Filter::bilinear)});
    const double score = has_map_ && map_scored_ ? top_mean(output.maps[0], {}) : output.scores[0];
    compare(score, scores[i], std::max(std::abs(scores[i]), mean_size));
    if (!has_map_ || !carried.contains("maps")) continue;
    const nlohmann::json& map = carried["maps"][i];
    const double low = map.at("low"), high = map.at("high");
    const cv::Mat levels = decode_png(map.at("png"));  // every `step`-th pixel, in 16 bits between `low` and `high`
    const int step = carried.at("step");
    for (int row = 0; row < levels.rows; ++row)
      for (int column = 0; column < levels.cols; ++column)
        compare(output.maps[0].at<float>(row * step, column * step),
                low + levels.at<std::uint16_t>(row, column) * ((high - low) / 65535),
                std::max(std::abs(low), std::abs(high)));
  }
  const double tolerance = carried.at("tolerance");
  if (largest <= tolerance) return;
  std::ostringstream text;
  text << "on the images in the file, this runtime's scores or maps differ by " << largest
       << " from the checkpoint's, but the tolerance is " << tolerance;
  if (!(largest <= REFUSED * tolerance)) throw UserError(text.str() + ": update the runtime, or choose another device");
  std::cerr << "judge: " << text.str() << ": check the verdicts on known images before you rely on them\n";
}

void Detector::decide(Verdict& verdict, const cv::Size& image) const {
  if (const double* threshold = find(thresholds_, verdict.category)) {
    verdict.threshold = *threshold;
    verdict.anomalous = verdict.score > *threshold;
  }
  // The share of the held-out nominal images, with this image among them, whose score is at least this one.
  if (const std::vector<double>* held = find(held_out_, verdict.category)) {
    const auto higher = std::count_if(held->begin(), held->end(), [&](double other) { return other >= verdict.score; });
    verdict.p_value = (1.0 + static_cast<double>(higher)) / (static_cast<double>(held->size()) + 1.0);
  }
  const Marking* marking = find(markings_, verdict.category);
  if (verdict.map.empty() || !marking) return;
  cv::Mat labels, sizes, centroids, inside;
  if (view_->region) {
    inside = cv::Mat::zeros(image, CV_8UC1);
    const Region& region = *view_->region;
    inside(region.box.rect()).setTo(255, region.inside.empty() ? cv::noArray() : region.inside);
  }
  const cv::Mat mask = (*marking)(verdict.map, inside);
  const int count = cv::connectedComponentsWithStats(mask, labels, sizes, centroids, 8, CV_32S);
  for (int label = 1; label < count; ++label) {
    const int* size = sizes.ptr<int>(label);
    const Box box{size[cv::CC_STAT_TOP], size[cv::CC_STAT_LEFT], size[cv::CC_STAT_TOP] + size[cv::CC_STAT_HEIGHT],
                  size[cv::CC_STAT_LEFT] + size[cv::CC_STAT_WIDTH]};
    double peak;
    cv::minMaxLoc(verdict.map(box.rect()), nullptr, &peak, nullptr, nullptr, labels(box.rect()) == label);
    verdict.regions.push_back({box, size[cv::CC_STAT_AREA], static_cast<float>(peak)});
  }
  std::stable_sort(verdict.regions.begin(), verdict.regions.end(),
                   [](const FoundRegion& a, const FoundRegion& b) { return a.peak > b.peak; });
}

}  // namespace lit_ad
