/**
 * The growing byte buffer below the encoder, and the encodings of numbers and strings. Knows nothing of objects.
 */
import * as f from './format.ts'

const SCRATCH_BYTES = 32_768
/** A scratch buffer that a large value has grown beyond this is not kept. */
const SCRATCH_KEPT_MAX = 1_048_576
const SHORT_STRING_MAX = 0x40
/** Bodies start here, so that the longest header fits before them without moving a byte. */
const BODY_START: number = f.HEADER_BYTES

export class Writer {
  bytes: Buffer = Buffer.allocUnsafeSlow(SCRATCH_BYTES)
  view: DataView = new DataView(this.bytes.buffer)
  limit: number = SCRATCH_BYTES
  position: number = BODY_START

  reset(): void {
    this.position = BODY_START
    if (this.limit > SCRATCH_KEPT_MAX) this.replaceBytes()
  }

  /** Starts over with a small buffer; the old one belongs to whoever has it. */
  replaceBytes(): void {
    this.resize(SCRATCH_BYTES, 0)
  }

  /** Makes room for `count` more bytes. */
  reserve(count: number): void {
    if (this.limit - this.position >= count) return
    this.resize(Math.max(this.limit * 2, this.position + count), this.position)
  }

  private resize(size: number, keep: number): void {
    const bytes = Buffer.allocUnsafeSlow(size)
    if (keep > 0) bytes.set(this.bytes.subarray(0, keep))
    this.bytes = bytes
    this.view = new DataView(bytes.buffer)
    this.limit = size
  }

  writeVarint(value: number): void {
    if (this.limit - this.position < 10) this.reserve(10)
    const { bytes } = this
    let rest = value
    while (rest > 0x7fff_ffff) {
      bytes[this.position++] = (rest % 128) | 0x80
      rest = Math.floor(rest / 128)
    }
    while (rest > 0x7f) {
      bytes[this.position++] = (rest & 0x7f) | 0x80
      rest >>>= 7
    }
    bytes[this.position++] = rest
  }

  writeFloat64(value: number): void {
    if (this.limit - this.position < 8) this.reserve(8)
    this.view.setFloat64(this.position, value, true)
    this.position += 8
  }

  writeNumber(value: number): void {
    if (this.limit - this.position < 16) this.reserve(16)
    const { bytes } = this
    if ((value | 0) === value && (value !== 0 || 1 / value > 0)) {
      if (value >= 0 && value < 0x80) bytes[this.position++] = value
      else if (value >= -0x80 && value < 0x80) {
        bytes[this.position++] = f.INT8
        bytes[this.position++] = value
      } else if (value >= -0x8000 && value < 0x8000) {
        bytes[this.position++] = f.INT16
        bytes[this.position++] = value
        bytes[this.position++] = value >> 8
      } else {
        bytes[this.position++] = f.INT32
        this.view.setInt32(this.position, value, true)
        this.position += 4
      }
    } else {
      bytes[this.position++] = f.FLOAT64
      this.view.setFloat64(this.position, value, true)
      this.position += 8
    }
  }

  writeBigInt(value: bigint): void {
    if (BigInt.asIntN(64, value) === value) {
      this.bytes[this.position++] = f.BIGINT64
      this.view.setBigInt64(this.position, value, true)
      this.position += 8
      return
    }
    this.bytes[this.position++] = f.BIGINT
    this.bytes[this.position++] = value < 0n ? 1 : 0
    this.writeString((value < 0n ? -value : value).toString(16))
  }

  writeString(value: string): void {
    const n = value.length
    if (n < SHORT_STRING_MAX) {
      if (this.limit - this.position < SHORT_STRING_MAX + 16) this.reserve(SHORT_STRING_MAX + 16)
      const { bytes } = this
      const start = this.position + 1
      let any = 0
      for (let i = 0; i < n; i++) {
        const code = value.charCodeAt(i)
        any |= code
        bytes[start + i] = code
      }
      if (any < 0x80) {
        bytes[start - 1] = f.FIX_STRING | n
        this.position = start + n
        return
      }
    }
    this.writeLongString(value)
  }

  private writeLongString(value: string): void {
    const wellFormed = value.isWellFormed()
    const size = wellFormed ? Buffer.byteLength(value, 'utf8') : value.length * 2
    this.reserve(size + 16)
    this.bytes[this.position++] = !wellFormed ? f.STRING_UTF16 : size === value.length ? f.STRING_ASCII : f.STRING_UTF8
    this.writeVarint(size)
    this.position += this.bytes.write(value, this.position, size, !wellFormed ? 'utf16le' : size === value.length ? 'latin1' : 'utf8')
  }

  /** The whole encoding up to the buffers that follow it, as a view of the scratch: copy it before the next use. */
  finish(form: number): Uint8Array {
    const { bytes, view, position } = this
    if (form !== f.FORM_BUFFERS) {
      bytes[BODY_START - 1] = form
      return bytes.subarray(BODY_START - 1, position)
    }
    bytes.fill(0, 0, 8)
    bytes[0] = form
    view.setFloat64(8, position, true)
    return bytes.subarray(0, position)
  }
}
