/**
 * The model of the digits example, as a class for `mapBatches`: one instance, and so one loaded model, per worker process.
 */
import type { Tensor } from '@beamline/data'
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'

export class Classifier {
  readonly #path: string
  #session: InferenceSession | undefined

  constructor(path: string) {
    this.#path = path
  }

  async setup(): Promise<void> {
    // One thread each: the workers share the machine's cores.
    this.#session = await InferenceSession.create(this.#path, { intraOpNumThreads: 1 })
  }

  async call({ id, image, label }: { id: Int32Array; image: Tensor<Uint8Array>; label: Int8Array }) {
    const { logits } = await (this.#session as InferenceSession).run({ image: new OrtTensor('uint8', image.data, image.shape) })
    const scores = logits?.data as Float32Array
    return {
      id,
      label,
      predicted: Int8Array.from(label, (_, row) => argMax(scores.subarray(row * 10, row * 10 + 10))),
      logits: { data: scores, shape: [label.length, 10] },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session?.release()
  }
}

function argMax(scores: Float32Array): number {
  return scores.reduce((best, score, index) => (score > (scores[best] as number) ? index : best), 0)
}
