import { describe, expect, test } from 'vitest'
import { CHUNK_BYTES } from '../../src/transfer/chunks.ts'
import { Referrals } from '../../src/transfer/referrals.ts'

const LARGE = 10 * CHUNK_BYTES

describe('readers of a large object', () => {
  test('are two at a time; the next ones are told who is getting it, most of it first', () => {
    const referrals = new Referrals()
    expect(referrals.admit('x', LARGE, 'a')).toBeUndefined()
    expect(referrals.admit('x', LARGE, 'b')).toBeUndefined()
    referrals.sent('x', 'b', CHUNK_BYTES)
    expect(referrals.admit('x', LARGE, 'c')).toEqual(['b', 'a'])
    expect(referrals.admit('x', LARGE, 'd'), 'b was named to c').toEqual(['a', 'b'])
    referrals.done('x', 'a')
    expect(referrals.admit('x', LARGE, 'c')).toBeUndefined()
  })

  test('count once, with however many connections', () => {
    const referrals = new Referrals()
    for (let i = 0; i < 4; i++) expect(referrals.admit('x', LARGE, 'a')).toBeUndefined()
    for (let i = 0; i < 3; i++) referrals.done('x', 'a')
    expect(referrals.admit('x', LARGE, 'b')).toBeUndefined()
    expect(referrals.admit('x', LARGE, 'c')).toEqual(['a', 'b'])
    referrals.done('x', 'a')
    expect(referrals.admit('x', LARGE, 'c')).toBeUndefined()
  })

  test('are sent to whole copies, before the source has sent it twice more than those', () => {
    const referrals = new Referrals()
    const read = (node: string): readonly string[] | undefined => {
      const others = referrals.admit('x', LARGE, node)
      referrals.addCopy('x', node)
      if (!others) referrals.done('x', node)
      return others
    }
    expect(read('a')).toBeUndefined()
    expect(read('b')).toBeUndefined()
    expect(read('c')).toEqual(['a', 'b'])
    expect(read('d')).toEqual(['b', 'c', 'a'])
    expect(read('e')).toEqual(['c', 'd', 'a', 'b'])
  })

  test('that ask again have no copy any more', () => {
    const referrals = new Referrals()
    referrals.addCopy('x', 'a')
    referrals.admit('x', LARGE, 'a')
    expect(referrals.copies('x')).toEqual([])
  })
})

test('small objects are sent to many at a time', () => {
  const referrals = new Referrals()
  for (let i = 0; i < 16; i++) expect(referrals.admit('x', 1, `node ${i}`)).toBeUndefined()
  expect(referrals.admit('x', 1, 'late')).toHaveLength(4)
})

describe('an object that is still arriving', () => {
  const arriving = (here: number, have: number, feeds: number): readonly string[] | undefined => new Referrals().admit('x', LARGE, 'a', { here, have, feeds })

  test('is passed on to those who are behind', () => {
    expect(arriving(3, 2, 5)).toBeUndefined()
  })

  test('is of no use to those who are ahead', () => {
    expect(arriving(2, 3, 0)).toEqual([])
  })

  test('at equal progress goes only to those who feed nobody: who waits for whom is never a circle', () => {
    expect(arriving(2, 2, 0)).toBeUndefined()
    expect(arriving(2, 2, 1)).toEqual([])
  })
})

test('nothing is kept of objects that are freed, of readers that are done, and of dead nodes', () => {
  const referrals = new Referrals()
  referrals.admit('x', LARGE, 'a')
  referrals.addCopy('x', 'b')
  referrals.addCopy('x', 'b')
  referrals.addCopy('y', 'c')
  expect(referrals.forget('x')).toEqual(['b'])
  expect(referrals.forget('x')).toEqual([])
  referrals.done('x', 'a')
  referrals.done('x', 'a')
  referrals.nodeLost('c')
  expect(referrals.size).toBe(0)
})
