/// Tests of the helper's half of the protocol, over the corpus that the daemon's tests use too.
import Foundation
import HelperProtocol
import Testing

struct Corpus: Decodable {
  struct Requests: Decodable {
    let good: [String]
    let bad: [BadRequest]
  }
  struct BadRequest: Decodable {
    let name: String
    let line: String
    let code: HelperError.Code
  }
  struct Replies: Decodable {
    let good: [String]
  }
  struct Stream: Decodable {
    let name: String
    let text: String?
    let `repeat`: [Piece]?
    let end: String?
    let lines: Lines?
    let error: Bool?

    var bytes: [UInt8] {
      if let text { return Array(text.utf8) }
      guard let parts = `repeat`, case .text(let unit) = parts.first, case .count(let count) = parts.last else { return [] }
      return Array(String(repeating: unit, count: count).utf8) + Array((end ?? "").utf8)
    }
  }
  enum Piece: Decodable {
    case text(String), count(Int)
    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) { self = .text(text) } else { self = .count(try container.decode(Int.self)) }
    }
  }
  enum Lines: Decodable {
    case texts([String]), count(Int)
    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let count = try? container.decode(Int.self) { self = .count(count) } else { self = .texts(try container.decode([String].self)) }
    }
  }
  struct Greeting: Decodable {
    let line: String
    let port: UInt32?
  }
  let requests: Requests
  let replies: Replies
  let streams: [Stream]
  let greetings: [Greeting]

  static func read() throws -> Corpus {
    let repository = URL(fileURLWithPath: #filePath).pathComponents.dropLast(4).joined(separator: "/")
    let path = "/" + repository.drop { $0 == "/" } + "/test/corpus/helper/corpus.json"
    return try JSONDecoder().decode(Corpus.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
  }
}

@Test func goodRequestsAreTaken() throws {
  let corpus = try Corpus.read()
  #expect(corpus.requests.good.count > 10)
  for line in corpus.requests.good { #expect(throws: Never.self) { try decodeRequest(Data(line.utf8)) } }
}

@Test func badRequestsAreRefusedByTheirReason() throws {
  for bad in try Corpus.read().requests.bad {
    #expect(throws: (any Error).self, "\(bad.name)") { try decodeRequest(Data(bad.line.utf8)) }
    do {
      _ = try decodeRequest(Data(bad.line.utf8))
    } catch {
      #expect(error.code == bad.code, "\(bad.name)")
    }
  }
}

@Test func anUnknownOperationIsNamed() {
  do {
    _ = try decodeRequest(Data(#"{"id":3,"op":"frobnicate"}"#.utf8))
    Issue.record("it was taken")
  } catch {
    #expect(error.message.contains("frobnicate"))
  }
}

/// The daemon understands every reply of the helper: each good reply survives decoding and encoding.
@Test func repliesAreWhatTheCorpusSays() throws {
  struct Reply: Codable {
    let id: Int?
    let ok: Bool?
    let error: HelperError?
  }
  for line in try Corpus.read().replies.good {
    let data = Data(line.utf8)
    if line.contains(#""event""#) {
      let event = try JSONDecoder().decode(Event.self, from: data)
      #expect(try JSONDecoder().decode(Event.self, from: encodeLine(event)) == event)
    } else if let error = try JSONDecoder().decode(Reply.self, from: data).error {
      let id = try JSONDecoder().decode(Reply.self, from: data).id
      let encoded = try encodeReply(id: id, Outcome<NoReply>.failure(error))
      #expect(try canonical(encoded) == canonical(data), "\(line)")
    }
  }
}

private func canonical(_ data: Data) throws -> NSDictionary {
  try #require(JSONSerialization.jsonObject(with: data) as? NSDictionary)
}

@Test func linesAreCutTheSameWayHoweverTheyArrive() throws {
  for stream in try Corpus.read().streams {
    let bytes = stream.bytes
    for step in [1, 7, 65_536, bytes.count + 1] where bytes.count / step <= 100_000 {
      var decoder = LineDecoder()
      var lines: [String] = []
      do {
        for start in Swift.stride(from: 0, to: bytes.count, by: step) {
          let taken = try decoder.take(bytes[start..<min(start + step, bytes.count)])
          lines += taken.map { String(decoding: $0, as: UTF8.self) }
        }
        #expect(stream.error != true, "\(stream.name)")
      } catch {
        #expect(stream.error == true && error.code == .badMessage, "\(stream.name)")
        continue
      }
      switch stream.lines {
      case .texts(let wanted): #expect(lines == wanted, "\(stream.name)")
      case .count(let count): #expect(lines.count == count, "\(stream.name)")
      case nil: #expect(lines.isEmpty)
      }
    }
  }
}

@Test func greetingsAreStrict() throws {
  for greeting in try Corpus.read().greetings {
    #expect(parseGreeting(Array(greeting.line.utf8)) == greeting.port, "\(greeting.line)")
  }
}
