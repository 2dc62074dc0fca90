/** Addresses of processes, seen from their own node and from others. */
import { expect, test } from 'vitest'
import { formatEndpoint, reach } from '../../src/net/endpoint.ts'

test('a process is reached by its socket on its own node and by its port from others', () => {
  const address = formatEndpoint({ unix: 'unix:/tmp/a,b@c/p.sock', node: '00ff00ff00ff00ff', tcp: '[fd00::1]:7001' })
  expect(reach(address, '00ff00ff00ff00ff')).toBe('unix:/tmp/a,b@c/p.sock')
  expect(reach(address, '1111111111111111')).toBe('[fd00::1]:7001')
})

test('in a cluster of one an address is the socket alone', () => {
  const address = formatEndpoint({ unix: 'unix:/tmp/p.sock', node: '', tcp: '' })
  expect(address).toBe('unix:/tmp/p.sock')
  expect(reach(address, '')).toBe(address)
})
