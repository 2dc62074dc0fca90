import { describe, expect, test } from 'vitest'
import {
  checkHello,
  decodeFrameHead,
  decodeGreeting,
  decodeHello,
  decodeRequest,
  encodeGreeting,
  encodeHello,
  encodeText,
  FRAME,
  FrameSeal,
  HELLO_HEAD_BYTES,
} from '../../src/transfer/bulk-protocol.ts'

const source = Buffer.alloc(16, 1)
const reader = Buffer.alloc(16, 2)
const hello = { cluster: 'c', from: 'a', to: 'b' }

describe('a hello', () => {
  test('proves that the reader knows the token, without telling it', () => {
    const nonce = decodeGreeting(encodeGreeting(source))!
    const bytes = encodeHello('secret', nonce, reader, hello)
    expect(bytes.includes('secret')).toBe(false)
    const length = checkHello('secret', source, bytes.subarray(0, HELLO_HEAD_BYTES))
    expect(length).toBe(bytes.length - HELLO_HEAD_BYTES)
    expect(decodeHello(bytes.subarray(HELLO_HEAD_BYTES))).toEqual(hello)
  })

  test('with another token, or said on another connection, proves nothing', () => {
    const head = encodeHello('secret', source, reader, hello).subarray(0, HELLO_HEAD_BYTES)
    expect(checkHello('guess', source, head)).toBeUndefined()
    expect(checkHello('secret', Buffer.alloc(16, 3), head)).toBeUndefined()
  })

  test('is not said to something that is no source of this version', () => {
    expect(decodeGreeting(Buffer.from('HTTP/1.1 400 Bad Request'))).toBeUndefined()
    const newer = encodeGreeting(source)
    newer[7] = 99
    expect(decodeGreeting(newer)).toBeUndefined()
  })
})

describe('a frame', () => {
  const seals = (): [FrameSeal, FrameSeal] => [new FrameSeal('secret', source, reader), new FrameSeal('secret', source, reader)]
  const payload = Buffer.from('the bytes of a chunk')

  test('is intact when nothing of it changed', () => {
    const [ours, theirs] = seals()
    for (let index = 0; index < 3; index++) {
      const head = decodeFrameHead(ours.encode(FRAME.chunk, index, payload))
      expect(head).toMatchObject({ kind: FRAME.chunk, index, length: payload.length })
      expect(theirs.verify(head, payload)).toBe(true)
    }
  })

  test.each([
    ['a byte of the payload', (_head: Buffer, bytes: Buffer) => bytes.writeUInt8(bytes[3]! ^ 1, 3)],
    ['the number of the chunk', (head: Buffer) => head.writeUInt32BE(8, 4)],
    ['the kind', (head: Buffer) => head.writeUInt32BE(FRAME.end, 0)],
    ['the tag', (head: Buffer) => head.writeUInt8(head[20]! ^ 1, 20)],
  ])('is not when %s changed', (_what, change) => {
    const [ours, theirs] = seals()
    const head = ours.encode(FRAME.chunk, 7, payload)
    const bytes = Buffer.from(payload)
    change(head, bytes)
    expect(theirs.verify(decodeFrameHead(head), bytes)).toBe(false)
  })

  test('does not pass for another one of the same connection, or of another', () => {
    const [ours, theirs] = seals()
    const head = decodeFrameHead(ours.encode(FRAME.chunk, 0, payload))
    expect(theirs.verify(head, payload)).toBe(true)
    expect(theirs.verify(head, payload), 'sent again').toBe(false)
    expect(new FrameSeal('secret', source, Buffer.alloc(16, 9)).verify(head, payload)).toBe(false)
    expect(new FrameSeal('guess', source, reader).verify(head, payload)).toBe(false)
  })
})

test.each([
  '[]',
  '{}',
  'null',
  '{"owner":"o","object":-1}',
  '{"owner":"o","object":1,"bytes":1e99,"segment":"","offset":0,"have":0,"feeds":0,"wanted":[]}',
  'GET /',
])('a request that is none is refused: %s', (text) => {
  expect(() => decodeRequest(Buffer.from(text))).toThrow()
})

test('a request arrives as it was asked', () => {
  const request = { owner: 'o', object: 2 ** 53 - 1, bytes: 5, segment: 's', offset: 4096, have: 1, feeds: 2, wanted: [[0, 3]] as const }
  expect(decodeRequest(encodeText(request).subarray(4))).toEqual(request)
})
