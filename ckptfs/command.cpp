#include "ckptfs/command.h"

#include <algorithm>
#include <limits>
#include <span>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/store/store.h"

namespace ckpt {

namespace {

/// A hundred a second.
constexpr std::chrono::milliseconds kShortestInterval{10};

/// A word as it may stand in a message: short, and without what disturbs a terminal.
std::string shown(std::string_view word) {
  constexpr size_t kLongest = 64;
  std::string text;
  for (const char c : word.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    text += byte < 0x80 ? escape(std::string_view(&c, 1)) : fmt::format("\\{:03o}", byte);
  }
  return word.size() > kLongest ? text + "..." : text;
}

/// Meant as one, at least.
bool is_number(const std::string& word) { return word[0] >= '0' && word[0] <= '9'; }

std::string image_name(std::string_view verb, std::string_view name) {
  if (!valid_image_name(name)) fail(EINVAL, "{}: '{}' is not a name that an image can have", verb, shown(name));
  return std::string(name);
}

/// Options of a series; false for another word.
bool parse_series_option(CheckpointCommand& command, std::string_view word) {
  constexpr std::string_view kEvery = "every=", kKeep = "keep=", kUntil = "until=";
  const auto is = [word](std::string_view name) { return word.starts_with(name); };
  if (!is(kEvery) && !is(kKeep) && !is(kUntil)) return false;
  if (!command.series) command.series.emplace();
  SeriesRule& rule = *command.series;
  bool good = false;
  if (is(kEvery)) {
    const auto every = parse_duration(word.substr(kEvery.size()));
    good = every && *every >= kShortestInterval && rule.every.count() == 0;
    if (good) rule.every = *every;
  } else if (is(kKeep)) {
    const auto keep = parse_retention(word.substr(kKeep.size()));
    good = keep && rule.keep.keeps_all();
    if (good) rule.keep = *keep;
  } else {
    const auto time = parse_duration(word.substr(kUntil.size()));
    const auto count = parse_count(word.substr(kUntil.size()));
    good = (time && time->count() > 0 && rule.until_time.count() == 0) || (count && *count > 0 && rule.until_count == 0);
    if (good && time) rule.until_time = *time;
    if (good && count) rule.until_count = *count;
  }
  if (!good) fail(EINVAL, "{}: '{}' is not what can follow {}, or a second one", command.pid, shown(word),
                  word.substr(0, word.find('=') + 1));
  return true;
}

void check_series(const CheckpointCommand& command) {
  if (command.full && (command.track || !command.series)) {
    fail(EINVAL, "{}: full goes with every=, and without track", command.pid);
  }
  if (!command.series) return;
  if (command.series->every.count() == 0) fail(EINVAL, "{}: keep= and until= go with every=", command.pid);
  if (command.after != AfterCapture::go_on || command.answer_at != 0) {
    fail(EINVAL, "{}: a series (every=) goes without exit, stop and answer=", command.pid);
  }
}

void parse_checkpoint_option(CheckpointCommand& command, const std::string& word) {
  constexpr std::string_view kNameOption = "name=", kAnswerOption = "answer=", kIntoOption = "into=";
  if (word == "exit" || word == "stop") {
    if (command.after != AfterCapture::go_on) {
      fail(EINVAL, "{}: only one of exit and stop can be given", command.pid);
    }
    command.after = word == "exit" ? AfterCapture::exit : AfterCapture::stop;
  } else if (word.starts_with(kNameOption)) {
    if (!command.name.empty()) fail(EINVAL, "{}: name= is given twice", command.pid);
    command.name = image_name(std::to_string(command.pid), std::string_view(word).substr(kNameOption.size()));
  } else if (word.starts_with(kAnswerOption)) {
    const auto address = parse_u64(std::string_view(word).substr(kAnswerOption.size()));
    if (!address || *address == 0 || *address % sizeof(int64_t) != 0 || command.answer_at != 0) {
      fail(EINVAL, "{}: '{}' is not an address, or a second one", command.pid, shown(word));
    }
    command.answer_at = *address;
  } else if (word == "no_sockets") {
    command.no_sockets = true;
  } else if (word == "no_pgrp_ttys") {
    command.no_pgrp_ttys = true;
  } else if (word.starts_with(kIntoOption)) {
    const auto fd = parse_u64(std::string_view(word).substr(kIntoOption.size()));
    if (!fd || *fd > std::numeric_limits<int>::max() || command.into >= 0) {
      fail(EINVAL, "{}: '{}' is not a descriptor, or a second one", command.pid, shown(word));
    }
    command.into = static_cast<int>(*fd);
  } else if (parse_series_option(command, word)) {
    return;
  } else if (word == "track") {
    command.track = true;
  } else if (word == "full") {
    command.full = true;
  } else if (word == "cpu") {
    command.cpu = true;
  } else if (word == "hold_linkcnt") {
    command.hold_linkcnt = true;
  } else {
    fail(EINVAL, "{}: unknown option '{}'", command.pid, shown(word));
  }
}

Command parse_checkpoint(std::span<const std::string> words) {
  CheckpointCommand command;
  const auto pid = parse_u64(words[0]);
  if (!pid || *pid == 0 || *pid > static_cast<uint64_t>(std::numeric_limits<pid_t>::max())) {
    fail(EINVAL, "'{}' is not a pid", shown(words[0]));
  }
  command.pid = static_cast<pid_t>(*pid);
  if (words.size() == 2 && words[1] == "every=never") return EndSeriesCommand{command.pid};
  for (size_t i = 1; i < words.size(); ++i) parse_checkpoint_option(command, words[i]);
  if (command.into >= 0 && (command.answer_at == 0 || !command.name.empty())) {
    fail(EINVAL, "{}: into= goes with answer=, and without name=", command.pid);
  }
  check_series(command);
  return command;
}

std::string argument(const std::vector<std::string>& words) {
  if (words.size() < 2) fail(EINVAL, "{}: the name of an image is missing", words[0]);
  return image_name(words[0], words[1]);
}

RestoreCommand parse_restore(const std::vector<std::string>& words) {
  RestoreCommand command;
  command.name = argument(words);
  for (size_t i = 2; i < words.size(); ++i) {
    bool* const option = words[i] == "stopped"   ? &command.stopped
                         : words[i] == "pidns"   ? &command.pidns
                         : words[i] == "replace" ? &command.replace
                         : words[i] == "lazy"    ? &command.lazy
                                                 : nullptr;
    if (option == nullptr) fail(EINVAL, "restore {}: unknown option '{}'", command.name, shown(words[i]));
    *option = true;
  }
  if (command.pidns && command.replace) {
    fail(EINVAL, "restore {}: replace goes without pidns, where no pid is in use", command.name);
  }
  if (command.pidns && command.lazy) fail(EINVAL, "restore {}: lazy goes without pidns", command.name);
  return command;
}

DeleteCommand parse_delete(const std::vector<std::string>& words) {
  DeleteCommand command{argument(words)};
  if (words.size() > 2) fail(EINVAL, "delete {}: unknown option '{}'", command.name, shown(words[2]));
  return command;
}

/// For verbs whose argument is one of two words: whether it is the second.
bool is_second_of(const std::vector<std::string>& words, std::string_view first, std::string_view second) {
  if (words.size() != 2 || (words[1] != first && words[1] != second)) {
    fail(EINVAL, "{}: one word must follow, {} or {}", words[0], first, second);
  }
  return words[1] == second;
}

/// `check PID [option...]` is about a process, `check sampled|full` about the store.
Command parse_check(const std::vector<std::string>& words) {
  if (words.size() < 2 || !is_number(words[1])) return CheckCommand{is_second_of(words, "sampled", "full")};
  Command parsed = parse_checkpoint(std::span(words).subspan(1));
  auto* checkpoint = std::get_if<CheckpointCommand>(&parsed);
  if (checkpoint == nullptr || checkpoint->series) fail(EINVAL, "check {}: every= is for a checkpoint", shown(words[1]));
  CheckpointCommand command = std::move(*checkpoint);
  if (command.answer_at != 0) fail(EINVAL, "check {}: answer= is for a checkpoint", command.pid);
  command.dry_run = true;
  return command;
}

bool is_text(std::string_view line) {
  return std::ranges::none_of(line, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t') || byte == 0x7f;
  });
}

}  // namespace

std::vector<std::string_view> split_commands(std::string_view written) {
  std::vector<std::string_view> lines;
  while (!written.empty()) {
    const size_t end = std::min(written.find('\n'), written.size());
    const std::string_view line = written.substr(0, end);
    written.remove_prefix(std::min(end + 1, written.size()));
    if (line.size() > kMaxCommandLine) {
      fail(EINVAL, "ctl: a line of {} bytes is too long (at most {})", line.size(), kMaxCommandLine);
    }
    if (!is_text(line)) fail(EINVAL, "ctl: what was written is not text");
    const size_t start = line.find_first_not_of(" \t");
    if (start != std::string_view::npos && line[start] != '#') lines.push_back(line);
  }
  return lines;
}

Command parse_command(std::string_view line) {
  const std::vector<std::string> words = split_words(line);
  if (words.empty()) fail(EINVAL, "ctl: the line is empty");
  if (words[0] == "restore") return parse_restore(words);
  if (words[0] == "delete") return parse_delete(words);
  if (words[0] == "gc") return GcCommand{is_second_of(words, "now", "dry-run")};
  if (words[0] == "check") return parse_check(words);
  if (is_number(words[0])) return parse_checkpoint(words);
  fail(EINVAL, "ctl: unknown word '{}'", shown(words[0]));
}

}  // namespace ckpt
