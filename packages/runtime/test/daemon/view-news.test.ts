/** What the head tells its nodes together. */
import { expect, test } from 'vitest'
import { ViewNews } from '../../src/daemon/view-news.ts'
import type { View } from '../../src/state/events.ts'

const group = (id: string, state: string): View['groups'][number] => ({ group: id, state, nodes: [], bundles: [] })
const view = (groups: View['groups'], jobsEnded: string[] = []): View => ({ all: false, nodes: [], groups, jobsEnded })

test('of each group the last state is told, once, with all jobs that ended', () => {
  const news = new ViewNews()
  expect(news.take()).toBeUndefined()
  news.add(view([group('a', 'PENDING'), group('b', 'CREATED')], ['j1']))
  news.add(view([group('a', 'CREATED')], ['j2']))
  expect(news.take()).toEqual(view([group('a', 'CREATED'), group('b', 'CREATED')], ['j1', 'j2']))
  expect(news.take()).toBeUndefined()
})

test('a group can be told ahead of the rest, as long as it was not told', () => {
  const news = new ViewNews()
  news.add(view([group('a', 'CREATED'), group('b', 'CREATED')]))
  expect(news.ofGroup('a')).toEqual(view([group('a', 'CREATED')]))
  news.take()
  expect(news.ofGroup('a')).toBeUndefined()
})
