/** The fields of a shape that say nothing about where: any node, as the default policy decides. */
import type { Shape } from '../src/net/gen/node.ts'

export const ANYWHERE: Pick<Shape, 'spread' | 'node' | 'soft' | 'labels' | 'prefers' | 'package' | 'workingDir' | 'modules' | 'retriable'> = {
  spread: false,
  node: '',
  soft: false,
  labels: {},
  prefers: '',
  package: '',
  workingDir: '',
  modules: [],
  retriable: true,
}
