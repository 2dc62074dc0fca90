import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ERRORS } from '../packages/runtime/src/errors.ts'
import { ERRORS_PAGE, errorsPage } from './errors-doc.ts'

test('docs/errors.md is what the table of errors generates', () => {
  expect(readFileSync(ERRORS_PAGE, 'utf8'), 'run `npm run docs`').toBe(errorsPage())
})

test('the page has one section for each code and no other', () => {
  const sections = [...readFileSync(ERRORS_PAGE, 'utf8').matchAll(/^## (\S+)$/gm)].map((match) => match[1])
  expect(sections).toEqual(Object.keys(ERRORS).sort())
})
