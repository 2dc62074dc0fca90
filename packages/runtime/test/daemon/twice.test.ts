/** What a daemon is told twice, and no cluster of the tests tells it twice where it could be seen, is done once. */
import { expect, test } from 'vitest'
import { Membership } from '../../src/daemon/membership.ts'
import { SegmentDirectory } from '../../src/objects/segment-directory.ts'

test('a node that is refused twice ends its work once', () => {
  const fenced: string[] = []
  const membership = new Membership({ config: { headAddress: '127.0.0.1:1', lookIn: '' }, fenced: (reason: string) => fenced.push(reason) } as never)
  for (let times = 0; times < 2; times++) membership.refused('it was declared dead')
  expect(fenced).toEqual(['the head refused it: it was declared dead'])
})

test('a segment that is returned twice is given out once', () => {
  const directory = new SegmentDirectory({ directory: '/store', capacityBytes: 2 ** 30 })
  const request = (process: string): unknown[] => directory.handle({ kind: 'segmentRequested', process, request: 1, bytes: 2 ** 24 }, 0)
  request('p')
  const [grant] = directory.handle({ kind: 'fileCreated', segment: 'segment-1' }, 0).filter(({ kind }) => kind === 'grant')
  expect(grant).toMatchObject({ process: 'p', segment: 'segment-1' })
  for (let times = 0; times < 2; times++) directory.handle({ kind: 'segmentReturned', process: 'p', segment: 'segment-1' }, 0)
  expect(request('q')).toContainEqual(expect.objectContaining({ kind: 'grant', process: 'q', segment: 'segment-1' }))
  const others = request('r')
  expect(others).not.toContainEqual(expect.objectContaining({ segment: 'segment-1' }))
  directory.handle({ kind: 'segmentReturned', process: 'p', segment: 'segment-1' }, 0) // it is another's now
  expect(request('s')).not.toContainEqual(expect.objectContaining({ segment: 'segment-1' }))
  directory.checkInvariants()
})
