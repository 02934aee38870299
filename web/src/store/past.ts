// What was measured over a range of time, for every layer of some strips.

import type { Api } from "../protocol/api";
import { fine, type Range } from "./history";
import type { Strip } from "./strips";

/** By layer, as milliseconds and value. `subject`: the id that the layers' queries name. */
export async function past(api: Api, strips: Strip[], subject: string, range: Range): Promise<Map<string, [number, number][]>> {
  const step = fine(range);
  const windowS = Math.max(15, Math.ceil((step / 1000) * 2));
  const asked = strips
    .flatMap((strip) => strip.layers)
    .map(async (layer) => {
      const told = await api.range(layer.past(subject, `${windowS}s`), range.from, range.to, step, range.step);
      const points = (told[0]?.values ?? []).map(([at, value]) => [Math.round(at * 1000), Number(value)] as [number, number]);
      return [layer.key, points.filter(([, value]) => Number.isFinite(value))] as const;
    });
  return new Map(await Promise.all(asked));
}
