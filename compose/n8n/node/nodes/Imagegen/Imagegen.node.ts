import type {
	IExecuteFunctions,
	ILoadOptionsFunctions,
	INodeExecutionData,
	INodePropertyOptions,
	INodeType,
	INodeTypeDescription,
	JsonObject,
} from 'n8n-workflow';
import { NodeApiError, NodeConnectionTypes, NodeOperationError } from 'n8n-workflow';

import { listModels, operations } from './operations';
import { properties } from './properties';

export class Imagegen implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Imagegen',
		name: 'imagegen',
		icon: { light: 'file:../../icons/imagegen.svg', dark: 'file:../../icons/imagegen.dark.svg' },
		group: ['transform'],
		version: 1,
		subtitle: '={{ $parameter["operation"] + ": " + $parameter["resource"] }}',
		description: 'Generate and change images with the image generation service',
		defaults: { name: 'Imagegen' },
		inputs: [NodeConnectionTypes.Main],
		outputs: [NodeConnectionTypes.Main],
		usableAsTool: true,
		credentials: [{ name: 'imagegenApi', required: true }],
		properties,
	};

	methods = {
		loadOptions: {
			async getModels(this: ILoadOptionsFunctions): Promise<INodePropertyOptions[]> {
				const models = await listModels(this);
				const options = models.map(({ name, title, backend, state }) => ({
					name: `${String(title ?? name ?? backend)} (${String(state)})`,
					value: title === undefined ? `backend:${String(backend)}` : String(name),
				}));
				return [{ name: 'Default of the Service', value: '' }, ...options];
			},
		},
	};

	async execute(this: IExecuteFunctions): Promise<INodeExecutionData[][]> {
		const results = await Promise.all(this.getInputData().map(async (_, item) => await outcome(this, item)));
		return [results.flat()];
	}
}

/** The results of one item. All items wait at the same time, so that the service's workers share them. */
async function outcome(context: IExecuteFunctions, item: number): Promise<INodeExecutionData[]> {
	const resource = context.getNodeParameter('resource', item) as string;
	const operation = context.getNodeParameter('operation', item) as string;
	try {
		return await operations[`${resource}.${operation}`](context, item);
	} catch (error) {
		if (!context.continueOnFail()) {
			// Both keep an error of their own kind as it is.
			if (error instanceof NodeApiError) {
				throw new NodeApiError(context.getNode(), error as unknown as JsonObject, { itemIndex: item });
			}
			throw new NodeOperationError(context.getNode(), error as Error, { itemIndex: item });
		}
		return [{ json: { error: (error as Error).message }, error: error as NodeApiError, pairedItem: { item } }];
	}
}
