/** The bucket of a real S3 server keeps the contract of places for spill files. */
import { CreateBucketCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, vi } from 'vitest'
import { S3Target } from '../../src/spill/s3-target.ts'
import { spillContract } from './contract.ts'
import { noSwift, startSwift, type SwiftServer } from './swift-server.ts'

vi.setConfig({ testTimeout: 60_000, hookTimeout: 120_000 })

describe.skipIf(noSwift)('a bucket of OpenStack Swift', () => {
  let folder: string
  let swift: SwiftServer
  let s3: S3Client
  let buckets = 0

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'spill-swift-'))
    swift = await startSwift()
    const { endpoint, credentials } = swift
    s3 = new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true })
  })

  afterAll(async () => {
    s3?.destroy()
    await swift?.[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  spillContract(
    () => folder,
    async () => {
      const Bucket = `bucket-${++buckets}`
      await s3.send(new CreateBucketCommand({ Bucket }))
      const { endpoint, credentials } = swift
      return {
        target: new S3Target({ bucket: Bucket, prefix: 'spilled', endpoint, credentials }, 'node'),
        files: async () => ((await s3.send(new ListObjectsV2Command({ Bucket }))).Contents ?? []).map(({ Key = '' }) => Key.replace('spilled/node/', '')),
        [Symbol.asyncDispose]: async () => {},
      }
    },
  )
})
